"""What runs inside a sandbox: standard library only, each module usable without the rest of the package."""
