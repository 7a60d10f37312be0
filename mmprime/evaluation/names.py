"""Words of likelihood numbers that a command line offers; importing them needs nothing heavy."""

ESTIMATORS = ("count", "time")
ORDERS = ("raster", "reversed", "halton", "coarse_first")
JOINT_LOSS_NOTE = (
    "joint_loss counts a whole token at the rate of one digit; with more than one digit a token it is no bound on the "
    "negative log-likelihood (two equal fair bits: 0.347 where the entropy is ln 2 = 0.693), so it has no perplexity"
)
