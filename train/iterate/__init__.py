"""Train a restorer in rounds. Between two rounds, the restorer cleans its own training targets."""
