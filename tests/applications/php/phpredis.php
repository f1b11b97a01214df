<?php
// phpredis: strings, counters of several processes, and sessions with and without locks.
// The first argument names the use. `visit N` is a request of a browser: it adds 1 to the session's number N times.
$host = getenv('HOST');
$port = (int) getenv('PORT');
$redis = new Redis();
$redis->connect($host, $port);

function check(bool $right, string $what): void
{
    if (!$right) {
        fwrite(STDERR, "failed: $what\n");
        exit(1);
    }
}

function start(bool $locking): void
{
    global $host, $port;
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', "tcp://$host:$port");
    ini_set('session.use_cookies', '0');
    ini_set('session.cache_limiter', '');
    ini_set('redis.session.locking_enabled', $locking ? '1' : '0');
    ini_set('redis.session.lock_wait_time', '2000');
    ini_set('redis.session.lock_retries', '-1');
    ini_set('redis.session.lock_expire', '60');
}

// Run this program several times at once. Return the sum of the exit statuses.
function processes(int $count, string $arguments): int
{
    $started = [];
    for ($number = 0; $number < $count; $number++) {
        $started[] = proc_open([PHP_BINARY, __FILE__, ...explode(' ', $arguments)], [], $pipes);
    }
    return array_sum(array_map('proc_close', $started));
}

function visit(bool $locking): void
{
    start($locking);
    session_id('browser');
    check(session_start(), 'session_start');
    $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
    check(session_write_close(), 'session_write_close');
}

switch ($argv[1]) {
    case 'visits':
        for ($at = 0; $at < 10; $at++) visit(true);
        break;
    case 'adds':
        for ($at = 0; $at < 100; $at++) $redis->incr('n');
        break;
    case 'client':
        check($redis->set('k', 'value', ['nx', 'ex' => 100]), 'SET NX');
        check(!$redis->set('k', 'other', ['nx']), 'SET NX of an existing key');
        check($redis->mget(['k', 'nothing']) === ['value', false], 'MGET');
        check($redis->multi()->incr('t')->get('t')->exec() === [1, '1'], 'MULTI');
        check(processes(4, 'adds') === 0, 'processes');
        check($redis->get('n') === '400', 'the sum of four processes');
        break;
    case 'script':
        $add = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
        check($redis->eval($add, ['n', 5], 1) === 5, 'EVAL');
        $sha = $redis->script('load', $add);
        check($redis->evalSha($sha, ['n', 2], 1) === 7, 'EVALSHA');
        check($redis->script('exists', $sha) == [1], 'SCRIPT EXISTS');
        check($redis->eval('return {1, "two", false, {"three"}}') === [1, 'two', false, ['three']], 'a table');
        break;
    case 'sessions':
        for ($at = 0; $at < 10; $at++) visit(false);
        session_start();
        check($_SESSION['visits'] === 10, 'visits');
        session_destroy();
        check($redis->keys('*') === [], 'a destroyed session');
        break;
    case 'locked_sessions':
        check(processes(4, 'visits') === 0, 'processes');
        start(false);
        session_id('browser');
        session_start();
        check($_SESSION['visits'] === 40, "{$_SESSION['visits']} visits of 40");
        check(array_filter($redis->keys('*'), fn ($key) => str_contains($key, 'LOCK')) === [], 'a lock remains');
        break;
}
