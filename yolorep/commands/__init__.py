"""What the program does, one command a file: options in, results out."""
