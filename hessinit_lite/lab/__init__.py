"""What only the book needs: data, networks, training, stored results, figures. Imports the core, never the reverse."""
