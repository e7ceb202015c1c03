"""The stages that are neither teaching nor learning."""
