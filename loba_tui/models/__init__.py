"""The embedded base model, the drawn world it was trained on, and the script that trains it."""
