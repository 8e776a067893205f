package faultproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// bufferSize is how much is read at a time, bytes.
const bufferSize = 64 << 10

// Frames reads one request as it was sent.
type Frames func(in *bufio.Reader) (raw []byte, err error)

// Bytes are requests of any protocol whose clients wait for each answer: what arrives together is one.
func Bytes(in *bufio.Reader) ([]byte, error) {
	if _, err := in.Peek(1); err != nil {
		return nil, err
	}
	raw := make([]byte, in.Buffered())
	_, err := io.ReadFull(in, raw)
	return raw, err
}

// RESP are commands of Redis.
func RESP(in *bufio.Reader) ([]byte, error) {
	raw, n, err := counted(in, '*')
	for ; err == nil && n > 0; n-- {
		line, size, lineErr := counted(in, '$')
		if lineErr != nil {
			return nil, lineErr
		}
		arg := make([]byte, size+len("\r\n"))
		_, err = io.ReadFull(in, arg)
		raw = append(append(raw, line...), arg...)
	}
	return raw, err
}

// counted reads a line of RESP and the number behind its mark; 0 for a line without it.
func counted(in *bufio.Reader, mark byte) (line []byte, n int, err error) {
	line, err = in.ReadBytes('\n')
	if err != nil || line[0] != mark {
		return line, 0, err
	}
	n, err = strconv.Atoi(string(bytes.TrimSpace(line[1:])))
	if err != nil {
		return nil, 0, fmt.Errorf("frame %q: %w", line, err)
	}
	return line, n, nil
}

// NATS are lines of NATS' client protocol, each with its message.
func NATS(in *bufio.Reader) ([]byte, error) {
	raw, _, err := message(in)
	return raw, err
}

// message reads one frame of NATS' client protocol; only those that carry a message have a subject.
func message(in *bufio.Reader) (raw []byte, m Message, err error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, m, err
	}
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return line, m, nil
	}
	headers, args := false, words[1:]
	switch strings.ToUpper(words[0]) {
	case "PUB":
	case "HPUB":
		headers = true
	case "MSG", "HMSG":
		headers = strings.EqualFold(words[0], "HMSG")
		args = append(args[:1:1], args[2:]...) // without the subscription's number
	default:
		return line, m, nil
	}
	sizes := 1
	if headers {
		sizes = 2
	}
	m.Subject = args[0]
	if len(args) == sizes+2 {
		m.Reply = args[1]
	}
	total, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return nil, m, fmt.Errorf("frame %q: %w", line, err)
	}
	head := 0
	if headers {
		if head, err = strconv.Atoi(args[len(args)-2]); err != nil {
			return nil, m, fmt.Errorf("frame %q: %w", line, err)
		}
	}
	payload := make([]byte, total+len("\r\n"))
	if _, err := io.ReadFull(in, payload); err != nil {
		return nil, m, err
	}
	m.Body = bytes.Clone(payload[head:total])
	return append(line, payload...), m, nil
}
