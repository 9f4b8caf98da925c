"""Where a training step's time goes: computing, or waiting for data, for which of its stages; and what would help."""
