"""Tables, verdicts and warnings in the terminal."""
