"""Programs of unknown intent, run where they can neither do harm nor learn what they are compared with."""
