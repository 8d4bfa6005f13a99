"""The restorer, one model made of parts; and the recognizer of the losses."""
