"""What the notebooks look at: runs and official files, what they fill in, attend to and know; and what masks and tokens tell."""
