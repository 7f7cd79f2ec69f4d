<?php
// A child writes to shared strings on the stack of a fiber, before and after it has waited.
$texts = [];
for ($n = 0; $n < 60000; $n++) {
    $texts[] = "text $n " . str_repeat('x', 40);
}
echo json_encode(['ready' => ['pid' => getmypid()]]), "\n";
fgets(STDIN);
$child = pcntl_fork();
if ($child === 0) {
    $fiber = new Fiber(function () use (&$texts) {
        foreach ([1, 2] as $part) {
            foreach ($texts as $n => $text) {
                if ($n % 2 === $part % 2) {
                    $texts[$n] = $part;
                }
            }
            Fiber::suspend();
        }
    });
    $fiber->start();
    $fiber->resume();
    usleep(200000);
    posix_kill(getmypid(), SIGKILL);
}
pcntl_wait($status);
echo json_encode(['done' => new stdClass()]), "\n";
while (fgets(STDIN) !== false) {
}
