package bus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/validation"
)

const (
	typeJSON  = "application/json"
	typeProto = "application/protobuf"
)

// Read decodes and validates a body as the workers do, and lists all that is wrong with it: it is too large,
// unreadable, or breaks the rules in its .proto. readable is false when m is not what was sent. The reasons quote
// nothing of the body. A non-nil error is our own fault.
func Read[M proto.Message](topic event.Topic[M], header nats.Header, body []byte) (m M, readable bool, wrong []fault.Reason, err error) {
	m = topic.New()
	readable, wrong, err = decodeAndValidate(header, body, m)
	return m, readable, wrong, err
}

// decodeAndValidate is Read into m. If the body is unreadable, m holds the fields that identify it.
func decodeAndValidate(header nats.Header, body []byte, m proto.Message) (readable bool, wrong []fault.Reason, err error) {
	if len(body) > MaxBody {
		if contentTypeOf(header) == typeJSON {
			salvage(body, m)
		}
		large := fault.Reason{
			Code: "body.toolarge",
			ZH:   fmt.Sprintf("正文 %d 字节，最多 %d 字节", len(body), MaxBody),
			EN:   fmt.Sprintf("body of %d bytes, at most %d", len(body), MaxBody),
		}
		return false, []fault.Reason{large}, nil
	}
	if err := decode(header, body, m); err != nil {
		return false, []fault.Reason{fault.ReasonOf(err, "malformed")}, nil
	}
	wrong, err = validation.Broken(m, "invalid")
	return true, wrong, err
}

// Decode decodes the message of a stored event. It does not validate it.
func Decode[M proto.Message](topic event.Topic[M], s Stored) (M, error) {
	m := topic.New()
	return m, decode(s.Header, s.Body, m)
}

// DecodeFact decodes the message of a stored event by the event's name; nil without an error when no fact has that name.
func DecodeFact(s Stored) (proto.Message, error) {
	f, known := event.FactNamed(s.Name)
	if !known {
		return nil, nil
	}
	m := f.New()
	return m, decode(s.Header, s.Body, m)
}

// contentTypeOf is the content type without its parameters ("; charset=utf-8"), which change nothing; a missing or
// unreadable one is JSON.
func contentTypeOf(header nats.Header) string {
	contentType, _, _ := mime.ParseMediaType(headerOf(header, event.HeaderContentType))
	switch contentType {
	case "":
		return typeJSON
	case "application/x-protobuf":
		return typeProto
	}
	return contentType
}

// decode reads body into m. Its errors are fault.Reasons and quote nothing of the body; m then holds the fields that
// identify it (salvage).
func decode(header nats.Header, body []byte, m proto.Message) error {
	switch contentTypeOf(header) {
	case typeProto:
		err := proto.Unmarshal(body, m)
		if err == nil {
			return nil
		}
		reason := fault.Reason{Code: "malformed", ZH: "正文不是该事件的 protobuf 编码", EN: "the body is not the protobuf encoding of this event"}
		if strings.Contains(err.Error(), "UTF-8") { // everything before it was read
			reason.ZH, reason.EN = "有文本不是 UTF-8 编码（可能是 GBK）", "a text in it is not UTF-8, perhaps GBK"
			return reason
		}
		proto.Reset(m)
		return reason
	case typeJSON:
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		options := protojson.UnmarshalOptions{DiscardUnknown: true}
		err := options.Unmarshal(body, m)
		if err != nil {
			if repaired := repairSurrogates(body); repaired != nil {
				body = repaired
				proto.Reset(m)
				err = options.Unmarshal(body, m)
			}
		}
		if err != nil {
			reason := malformed(body, err, m.ProtoReflect().Descriptor())
			salvage(body, m)
			return reason
		}
		if path, fd := unknownEnumValue(body, m.ProtoReflect().Descriptor()); fd != nil {
			zh, en := expected(fd, true)
			return fault.Reason{Code: "malformed", Field: truncate(path, maxPath), ZH: zh, EN: en}
		}
		return nil
	default:
		return fault.Reason{
			Code: "malformed", Field: event.HeaderContentType,
			ZH: "Content-Type 只支持 application/json 和 application/protobuf",
			EN: "Content-Type must be application/json or application/protobuf",
		}
	}
}

// jsonErrorPlace finds the position in protojson's errors: "proto: (line 1:23): …". Their spaces vary.
var jsonErrorPlace = regexp.MustCompile(`\(line\s(\d+):(\d+)\)`)

// malformed says where the JSON is wrong and what is expected there. It does not repeat the value: it may be somebody's
// name.
func malformed(body []byte, err error, kind protoreflect.MessageDescriptor) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return fault.Reason{Code: "malformed", ZH: "正文为空", EN: "the body is empty"}
	}
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	var line, column int
	if m := jsonErrorPlace.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		column, _ = strconv.Atoi(m[2])
	} else {
		line, column = position(body, len(body)) // it ended too early
	}
	what, wasZH := "not JSON", "不是合法的 JSON"
	at := offsetOf(body, line, column)
	var path string
	switch {
	case !utf8.Valid(body):
		for at = 0; at < len(body); {
			r, size := utf8.DecodeRune(body[at:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			at += size
		}
		line, column = position(body, at)
		path = jsonPath(body, at)
		what, wasZH = "not UTF-8, perhaps GBK", "不是 UTF-8 编码（可能是 GBK）"
	case json.Valid(body):
		path = jsonPath(body, at)
		if fd, element := fieldAt(kind, path); strings.Contains(text, "duplicate field") {
			what, wasZH = "field given twice", "字段重复"
		} else if fd != nil {
			wasZH, what = expected(fd, element)
		} else {
			what, wasZH = "an object in { } is wanted", "应为对象 { }"
		}
	default:
		path = jsonPath(body, at)
	}
	return fault.Reason{
		Code: "malformed", Field: path,
		ZH: fmt.Sprintf("第 %d 行第 %d 列：%s", line, column, wasZH),
		EN: fmt.Sprintf("line %d, column %d: %s", line, column, what),
	}
}

// offsetOf is the byte at which a line and column begin, both counted from 1, columns in characters.
func offsetOf(body []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(body[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
	}
	for ; column > 1 && at < len(body); column-- {
		_, size := utf8.DecodeRune(body[at:])
		at += size
	}
	return at
}

// position is the line and column of the byte at offset: the inverse of offsetOf.
func position(body []byte, offset int) (line, column int) {
	head := body[:offset]
	return bytes.Count(head, []byte("\n")) + 1, utf8.RuneCount(head[bytes.LastIndexByte(head, '\n')+1:]) + 1
}

// maxPath bounds a path, bytes: it goes into headers.
const maxPath = 200

// jsonPath is the path of the value at offset, "lines[0].quantity"; "" at the top. If the body ends before offset, it
// is the path at its end.
func jsonPath(body []byte, offset int) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var in jsonLevels
	for {
		token, err := dec.Token()
		if err != nil {
			return in.path()
		}
		reached := dec.InputOffset() > int64(offset)
		top := len(in) - 1
		switch {
		case token == json.Delim('}') || token == json.Delim(']'):
			in = in[:top]
			in.valueEnded()
		case top >= 0 && in[top].wantsKey:
			in[top].key, _ = token.(string)
			in[top].wantsKey = false
			if reached {
				return in.path()
			}
		case reached:
			return in.path()
		case token == json.Delim('{'):
			in = append(in, jsonLevel{wantsKey: true})
		case token == json.Delim('['):
			in = append(in, jsonLevel{array: true})
		default:
			in.valueEnded()
		}
	}
}

// jsonLevels are the objects and arrays around a value, outermost first.
type jsonLevels []jsonLevel

type jsonLevel struct {
	array bool
	// index is the current element of an array.
	index int
	// key is the current one of an object; wantsKey says that a key comes next.
	key      string
	wantsKey bool
}

// valueEnded makes the innermost level expect its next element or key.
func (in jsonLevels) valueEnded() {
	if len(in) == 0 {
		return
	}
	if top := &in[len(in)-1]; top.array {
		top.index++
	} else {
		top.wantsKey = true
	}
}

func (in jsonLevels) path() string {
	var b strings.Builder
	for _, l := range in {
		switch {
		case l.array:
			fmt.Fprintf(&b, "[%d]", l.index)
		case l.key != "":
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(l.key)
		}
	}
	return truncate(b.String(), maxPath)
}

// joinReasons is the first of several reasons, with the texts of the others appended.
func joinReasons(wrong []fault.Reason) fault.Reason {
	const most = 5
	reason := wrong[0]
	for _, r := range wrong[1:min(len(wrong), most)] {
		reason.ZH += "；" + r.Field + "：" + r.ZH
		reason.EN += "; " + r.Field + ": " + r.EN
	}
	if more := len(wrong) - most; more > 0 {
		reason.ZH += fmt.Sprintf("；另有 %d 处", more)
		reason.EN += fmt.Sprintf("; and %d more", more)
	}
	return reason
}

// headerOf reads a header regardless of the case of its name.
func headerOf(h nats.Header, name string) string {
	if v := h.Get(name); v != "" {
		return v
	}
	for k, v := range h {
		if len(v) > 0 && strings.EqualFold(k, name) {
			return v[0]
		}
	}
	return ""
}
