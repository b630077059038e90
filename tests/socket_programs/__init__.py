"""Programs that emit through one of the SDK's sockets and then die, and what their tests share."""
