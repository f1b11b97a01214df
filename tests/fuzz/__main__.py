"""`make fuzz`: a long comparison of the native path with the pure path, with the sanitizers on.

    python -m tests.fuzz [--seconds 300] [--seed N] [--protocol native|resp|both|tls|scripts] [--plain]

Builds the compiled part anew with AddressSanitizer and UndefinedBehaviorSanitizer into a directory of its own, and
runs itself there: lives of a store are drawn from seeds, cut into pieces, damaged now and then, and told to both;
replies, sessions and keyspaces have to agree after each step. What fails prints its seed, and `--seed` repeats it.
`--plain` takes the compiled part that is installed, without sanitizers. `--protocol tls` runs clients with random
streams of TLS on a server instead (`streams`), and `--protocol scripts` runs random scripts (`tests.scripts.fuzzing`);
with `both`, each of these follows for a tenth of the time.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cairnkv.protocol.native import Width
from tests.support.building import copy_project, install

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"


def main() -> int:
    """Build, and fuzz there; or only fuzz."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="compare the native path with the pure path"
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, help="the first seed (default: by chance)")
    parser.add_argument("--protocol", choices=("native", "resp", "both", "tls", "scripts"), default="both")
    parser.add_argument("--plain", action="store_true", help="fuzz what is installed, without sanitizers")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    if given.plain:
        from tests.fuzz.streams import fuzz_streams
        from tests.scripts.fuzzing import fuzz_scripts

        if given.protocol == "tls":
            return fuzz_streams(given.seconds, seed)
        if given.protocol == "scripts":
            return fuzz_scripts(given.seconds, seed)
        failed = fuzz(given.seconds, seed, given.protocol)
        if given.protocol == "both":
            failed = failed or fuzz_streams(given.seconds / 10, seed) or fuzz_scripts(given.seconds / 10, seed)
        return failed
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        print(f"fuzz: there is no {compiler}; on Debian: apt-get install gcc", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="cairn-fuzz-") as directory:
        return fuzz_sanitized(Path(directory), compiler, given.seconds, seed, given.protocol)


def fuzz_sanitized(place: Path, compiler: str, seconds: float, seed: int, protocol: str) -> int:
    """Build a copy of the project with the sanitizers, and fuzz it in a process that has them."""
    copy_project(place)
    environment = {**os.environ, "CC": compiler, "CFLAGS": SANITIZERS, "LDFLAGS": "-fsanitize=address,undefined"}
    print("fuzz: building with the sanitizers", flush=True)
    built = install(place, environment)
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment |= {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",  # so that every object is an allocation that AddressSanitizer knows
        "PYTHONPATH": f"{built}{os.pathsep}{place}",
    }
    run = [sys.executable, "-m", "tests.fuzz", "--plain", "--protocol", protocol]
    run += ["--seconds", str(seconds), "--seed", str(seed)]
    return subprocess.run(run, cwd=place, env=environment, check=False).returncode


def fuzz(seconds: float, first: int, protocol: str) -> int:
    """Run random histories until the time is up. A seed determines one history for each choice of the protocol."""
    import cairnkv.session.executor_native
    from cairnkv.protocol import DecoderLimits, StatusByte
    from tests.support import cluster_twins
    from tests.support.lives import flipped, lively_frame, lively_queue_frame, lively_redis
    from tests.support.rights import SOME_RULES
    from tests.support.twins import Twins

    print(f"fuzz: {cairnkv.session.executor_native.__file__}, from seed {first}, protocol {protocol}", flush=True)
    end, said_until = time.monotonic() + seconds, time.monotonic() + 10
    seed = first
    executed_natively = total = 0
    while time.monotonic() < end:
        chance = random.Random(seed)
        width: Width = 2 if chance.random() < 0.5 else 4
        on_redis = (chance.random() < 0.5) if protocol == "both" else protocol == "resp"
        of_queues = chance.random() < 0.4
        limits = DecoderLimits(value=2_000, frame=80_000) if chance.random() < 0.5 else DecoderLimits()
        twins = Twins(
            width=width if chance.random() < 0.3 else None, status_byte=chance.choice(list(StatusByte)), limits=limits
        )
        try:
            if chance.random() < 0.2:
                room = chance.choice([100, 1_000, 100_000])
                clusters = cluster_twins.twins(3, width=None if on_redis else width, room=room)
                for _ in range(5):
                    cluster_twins.live(clusters, chance, width, on_redis=on_redis)
            has_rules = chance.random() < 0.3
            for _ in range(20):
                twins.clock.advance(chance.randrange(3_000))
                if has_rules:
                    twins.limit(*chance.choice(SOME_RULES))
                count = chance.randrange(120)
                total += count
                if of_queues:
                    queues = twins.stores[0].queues
                    frames = [
                        lively_queue_frame(chance, queues, width, redis=on_redis, waits=False) for _ in range(count)
                    ]
                else:
                    frames = [lively_redis(chance) if on_redis else lively_frame(chance, width) for _ in range(count)]
                said = b"".join(frames)
                if chance.random() < 0.15:
                    said = flipped(said, chance)
                if chance.random() < 0.05:
                    said += chance.randbytes(chance.randrange(40))
                twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(6))])
                twins.agree()
        except BaseException:
            print(
                f"fuzz: seed {seed} fails; repeat it with --seed {seed} --protocol {protocol}",
                file=sys.stderr,
                flush=True,
            )
            raise
        executed_natively += twins.executed_natively
        seed += 1
        if time.monotonic() > said_until:
            said_until = time.monotonic() + 10
            print(f"fuzz: {seed - first:,} lives, {executed_natively:,} of {total:,} commands accelerated", flush=True)
    print(f"fuzz: no difference in {seed - first:,} lives, {executed_natively:,} of {total:,} commands accelerated")
    return 0 if executed_natively else 1


if __name__ == "__main__":
    sys.exit(main())
