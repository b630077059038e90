"""What the tests of events share: any event, and the shape of a registry."""
