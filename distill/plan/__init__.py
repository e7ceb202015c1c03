"""What an experiment needs: bytes, hours and money, worked out from the configuration alone."""
