"""Random scripts on redis-server and on cairnkv give equal replies, byte for byte, and leave equal keys."""

import os

from hypothesis import HealthCheck, given, settings

from tests.redis.programs import Program, programs
from tests.redis.scripts import MIXED, SCRIPT_COMMANDS
from tests.redis.test_differential import compare
from tests.support.targets import Target

EXAMPLES = int(os.environ.get("EXAMPLES", "50"))

STEPS = 10
"""Commands in a program, at most."""

TRY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@TRY
@given(program=programs(MIXED, SCRIPT_COMMANDS, STEPS))
def test_random_scripts_give_equal_replies(real_redis: Target, redis_target: Target, program: Program) -> None:
    compare(real_redis, redis_target, program)
