"""The responder's end of a stream, for its table; there is nothing to call from Python."""
