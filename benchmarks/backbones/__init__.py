"""A bake-off of machine-learnt potentials: same data, same split, same clock."""
