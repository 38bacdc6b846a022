"""Export: formats that others load and serve. One file each."""
