"""Find out what a target rejects and which layer differs first."""
