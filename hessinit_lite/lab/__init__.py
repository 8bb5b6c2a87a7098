"""What only the book needs: data, networks, training, stored results, figures. Above the core."""
