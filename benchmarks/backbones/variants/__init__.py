"""Other designs of the equivariant backbone's parts, each behind the part's own contract, for ablations."""
