"""Live pictures: thin widgets over pure functions, each drawn by one small ES module beside it."""
