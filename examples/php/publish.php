#!/usr/bin/env php
<?php
// Publishes an audited order and waits for what becomes of it: php publish.php [order.json]
// NATS_URL says where (nats://127.0.0.1:4222), NATS_USER and NATS_PASSWORD as whom. Ends 0 once the order is accepted.
//
// It speaks the NATS protocol itself, over one socket and without a library: https://docs.nats.io/reference/reference-protocols
declare(strict_types=1);

final class Nats
{
    /** @var resource */
    private $socket;
    private string $inbox;

    public function __construct(string $url, string $user, string $password)
    {
        $at = parse_url($url);
        $socket = stream_socket_client("tcp://{$at['host']}:" . ($at['port'] ?? 4222), $code, $text, 5);
        if ($socket === false) {
            throw new RuntimeException("connect to {$at['host']}: $text");
        }
        $this->socket = $socket;
        $this->inbox = '_INBOX.' . bin2hex(random_bytes(12));
        $this->line(); // INFO
        $who = ['verbose' => false, 'pedantic' => false, 'headers' => true, 'lang' => 'php', 'version' => '1', 'protocol' => 1];
        if ($user !== '') {
            $who += ['user' => $user, 'pass' => $password];
        }
        fwrite($this->socket, 'CONNECT ' . json_encode($who) . "\r\nSUB {$this->inbox} 1\r\n");
    }

    /** Publishes with headers; what answers comes by next(). Returns false when the connection is gone. */
    public function publish(string $subject, array $headers, string $body): bool
    {
        $head = "NATS/1.0\r\n";
        foreach ($headers as $name => $value) {
            $head .= "$name: $value\r\n";
        }
        $head .= "\r\n";
        $text = "HPUB $subject {$this->inbox} " . strlen($head) . ' ' . (strlen($head) + strlen($body)) . "\r\n$head$body\r\n";
        return fwrite($this->socket, $text) === strlen($text);
    }

    /** The next message as [headers, body], or null when none came for so many seconds. */
    public function next(int $seconds): ?array
    {
        stream_set_timeout($this->socket, $seconds);
        while (($line = $this->line()) !== null) {
            $words = explode(' ', $line);
            switch ($words[0]) {
                case 'PING':
                    fwrite($this->socket, "PONG\r\n");
                    break;
                case 'MSG': // MSG subject sid [reply] size
                    return [[], $this->bytes((int) end($words))];
                case 'HMSG': // HMSG subject sid [reply] header-size size
                    $headers = (int) $words[count($words) - 2];
                    $whole = $this->bytes((int) end($words));
                    return [self::headers(substr($whole, 0, $headers)), substr($whole, $headers)];
                case '-ERR':
                    throw new RuntimeException($line);
            }
        }
        return null;
    }

    private function line(): ?string
    {
        $line = fgets($this->socket);
        return $line === false ? null : rtrim($line, "\r\n");
    }

    private function bytes(int $n): string
    {
        $text = '';
        while (strlen($text) < $n + 2) { // the line end behind it too
            $more = fread($this->socket, $n + 2 - strlen($text));
            if ($more === false || $more === '') {
                throw new RuntimeException('the connection broke off');
            }
            $text .= $more;
        }
        return substr($text, 0, $n);
    }

    private static function headers(string $text): array
    {
        $lines = explode("\r\n", rtrim($text));
        $found = ['status' => trim(substr(array_shift($lines), strlen('NATS/1.0')))];
        foreach ($lines as $line) {
            [$name, $value] = explode(':', $line, 2);
            $found[strtolower($name)] = trim($value);
        }
        return $found;
    }
}

/** Asks JetStream something and returns its answer. */
function ask(Nats $nats, string $subject, array $headers, string $body): array
{
    for ($attempt = 1; $attempt <= 10; $attempt++) {
        $nats->publish($subject, $headers, $body);
        $answer = $nats->next(5);
        if ($answer !== null && !str_starts_with($answer[0]['status'] ?? '', '503')) { // 503: nobody is there yet
            $said = json_decode($answer[1], true, 512, JSON_THROW_ON_ERROR);
            if (isset($said['error'])) {
                throw new RuntimeException("$subject: {$said['error']['description']}");
            }
            return $said + ['attempt' => $attempt];
        }
        // Stored or not, nobody knows: the same message again, under the same id, is right in both cases.
        fwrite(STDERR, "no answer yet, trying again\n");
        sleep(1);
    }
    throw new RuntimeException("$subject: no answer");
}

$body = file_get_contents($argv[1] ?? __DIR__ . '/../order.json');
$order = json_decode($body, true, 512, JSON_THROW_ON_ERROR);
$nats = new Nats(getenv('NATS_URL') ?: 'nats://127.0.0.1:4222', getenv('NATS_USER') ?: '', getenv('NATS_PASSWORD') ?: '');

// The same content always has the same id, and nobody else's has it: the window for duplicates is all sellers'. It is a
// moment long; Stockbridge knows the outbound number for ever after.
$id = "order.audited/{$order['seller']}/{$order['outboundNo']}/" . substr(hash('sha256', $body), 0, 16);
$headers = [
    'Content-Type' => 'application/json',
    'Nats-Msg-Id' => $id,
    'ce-specversion' => '1.0',
    'ce-id' => $id,
    'ce-type' => 'order.audited',
    'ce-source' => 'erp',
    'ce-subject' => $order['outboundNo'],
    'ce-time' => $order['auditedAt'],
];
$stored = ask($nats, "order.audited.{$order['seller']}", $headers, $body);
if (($stored['duplicate'] ?? false) && $stored['attempt'] === 1) {
    // It was published for the first time: another message has the id, and this one was not stored.
    fwrite(STDERR, "another message has the id $id: publishing without one\n");
    unset($headers['Nats-Msg-Id']);
    $stored = ask($nats, "order.audited.{$order['seller']}", $headers, $body);
}
echo "stored as {$stored['stream']} {$stored['seq']}\n";

// An ERP keeps a durable consumer and books what it reads, keyed on ce-id: the same event may come twice. This looks
// once, at what was published since the order was audited, with a consumer that the server removes automatically.
$events = ['order.accepted', 'order.held', 'order.failed'];
$consumer = ask($nats, '$JS.API.CONSUMER.CREATE.ORDERS', [], json_encode([
    'stream_name' => 'ORDERS',
    'config' => [
        'deliver_policy' => 'by_start_time',
        'opt_start_time' => $order['auditedAt'],
        'ack_policy' => 'none',
        'filter_subjects' => array_map(fn (string $event) => "$event.{$order['seller']}", $events),
        'inactive_threshold' => 60_000_000_000, // nanoseconds
    ],
]))['name'];
for ($until = time() + 60; time() < $until;) {
    // One message, waited for 10 s.
    $nats->publish("\$JS.API.CONSUMER.MSG.NEXT.ORDERS.$consumer", [], json_encode(['batch' => 1, 'expires' => 10_000_000_000]));
    $answer = $nats->next(15);
    if ($answer === null || ($answer[0]['status'] ?? '') !== '') { // nothing came in time
        continue;
    }
    $event = json_decode($answer[1], true, 512, JSON_THROW_ON_ERROR);
    if ($event['ref']['outbound_no'] === $order['outboundNo']) {
        $name = $answer[0]['ce-type'];
        echo $name, ' ', json_encode($event, JSON_UNESCAPED_UNICODE | JSON_PRETTY_PRINT), "\n";
        exit($name === 'order.accepted' ? 0 : 1);
    }
}
fwrite(STDERR, "no outcome within a minute\n");
exit(1);
