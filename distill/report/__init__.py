"""What a person sees at the end: tables and one self-contained page."""
