"""What a machine is and whether it works: `passl env` and `passl env --check`. The command itself needs no Paddle."""
