"""Other people's libraries on this device: `make ecosystem` tries each and writes docs/ecosystem.md."""
