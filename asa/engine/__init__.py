"""Engine: one shared prefix, exact batches, last-token states, replay and greedy decoding."""
