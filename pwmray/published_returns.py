"""Returns that PWM and TD-MPC2 reached on MT30, for comparison.

Read off results/data/mt30_results.csv and tdmpc2_mt30_scores.csv of PWM's repository at commit
f515fbc (github.com/imgeorgiev/PWM): PWM at 48M parameters (arXiv 2407.02466), the last of 10,000
iterations of one run a task; TD-MPC2's multi-task agent (arXiv 2310.16828), mean and sample
standard deviation over the file's 10 rows a task. Those are whole numbers where a task's rewards
are 0 or 1, and so an episode each, not a training seed each.
"""

from typing import NamedTuple


class PublishedReturns(NamedTuple):
    """Published returns of one task, [0, 1000]."""

    pwm: float
    tdmpc2_mean: float
    tdmpc2_sd: float


PUBLISHED_RETURNS: dict[str, PublishedReturns] = {
    "walker-stand": PublishedReturns(995.4, 989.18, 6.96),
    "walker-walk": PublishedReturns(985.79, 978.96, 8.63),
    "walker-run": PublishedReturns(857.76, 617.6, 18.91),
    "cheetah-run": PublishedReturns(414.52, 148.06, 106.89),
    "reacher-easy": PublishedReturns(991.7, 981.4, 8.96),
    "reacher-hard": PublishedReturns(988.3, 974.5, 14.01),
    "acrobot-swingup": PublishedReturns(116.36, 9.68, 13.45),
    "pendulum-swingup": PublishedReturns(869.1, 814.8, 104.81),
    "cartpole-balance": PublishedReturns(999.7, 990.54, 1.44),
    "cartpole-balance-sparse": PublishedReturns(1000.0, 1000.0, 0.0),
    "cartpole-swingup": PublishedReturns(896.6, 0.54, 0.1),
    "cartpole-swingup-sparse": PublishedReturns(953.4, 0.0, 0.0),
    "cup-catch": PublishedReturns(471.6, 964.3, 35.4),
    "finger-spin": PublishedReturns(977.6, 928.2, 9.77),
    "finger-turn-easy": PublishedReturns(879.7, 983.4, 9.79),
    "finger-turn-hard": PublishedReturns(871.2, 981.1, 9.98),
    "fish-swim": PublishedReturns(844.4, 487.62, 325.8),
    "hopper-stand": PublishedReturns(394.67, 493.13, 246.54),
    "hopper-hop": PublishedReturns(162.37, 69.61, 34.53),
    "walker-walk-backwards": PublishedReturns(977.77, 959.93, 15.47),
    "walker-run-backwards": PublishedReturns(791.59, 186.74, 34.78),
    "cheetah-run-backwards": PublishedReturns(600.99, 324.55, 231.72),
    "cheetah-run-front": PublishedReturns(549.36, 122.82, 48.12),
    "cheetah-run-back": PublishedReturns(825.93, 156.76, 75.47),
    "cheetah-jump": PublishedReturns(793.81, 301.84, 53.8),
    "hopper-hop-backwards": PublishedReturns(165.08, 273.03, 184.53),
    "reacher-three-easy": PublishedReturns(989.1, 979.1, 10.9),
    "reacher-three-hard": PublishedReturns(974.9, 580.8, 498.18),
    "cup-spin": PublishedReturns(839.65, 828.85, 4.66),
    "pendulum-spin": PublishedReturns(866.88, 820.53, 60.74),
}
