"""How each program is set up, trained and asked for predictions."""
