"""Between the model's facts and the wire's messages, both ways; pure, and strict about what comes from outside."""
