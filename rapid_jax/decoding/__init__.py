"""The decoding loop: sampling, prefill, state, the jitted step, bursts, compiled programs."""
