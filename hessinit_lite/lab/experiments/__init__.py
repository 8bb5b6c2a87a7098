"""The long experiments of chapters 11 to 15, one file each."""
