"""Names of the published verification rules, apart from their JAX code: configurations are checked without it."""

TAILS = ("teacher", "augmented")  # see verification.target_mixing
RESIDUALS = ("rapid", "exact")  # see verification.chain
