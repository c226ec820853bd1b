"""What runs inside a program's own environment; nothing here imports what only ours has, unless its name says so."""
