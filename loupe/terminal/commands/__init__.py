"""The commands of `loupe`, a module per noun."""
