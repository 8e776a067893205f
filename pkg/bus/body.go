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

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/rule"
)

const (
	typeJSON  = "application/json"
	typeProto = "application/protobuf"
)

// Decode reads the message of a stored event. It is not validated.
func Decode[M proto.Message](topic event.Topic[M], s Stored) (M, error) {
	m := topic.New()
	return m, decode(s.Header, s.Body, m)
}

// decode reads body into m. Its errors are fault.Reasons and quote nothing of the body.
func decode(header nats.Header, body []byte, m proto.Message) error {
	// Its parameters ("; charset=utf-8") change nothing, and a type that cannot be read at all counts as none.
	contentType, _, _ := mime.ParseMediaType(headerOf(header, event.HeaderContentType))
	switch contentType {
	case typeProto, "application/x-protobuf":
		if proto.Unmarshal(body, m) != nil {
			return fault.Reason{Code: "malformed", ZH: "正文不是该事件的 protobuf 编码", EN: "the body is not the protobuf encoding of this event"}
		}
		return nil
	case typeJSON, "":
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, m); err != nil {
			return malformed(body, err)
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

var (
	// protojson's errors: "proto: (line 1:23): invalid value for int64 field quantity: "abc"". Its spaces vary.
	jsonErrorPlace = regexp.MustCompile(`\(line\s(\d+):(\d+)\)`)
	jsonErrorField = regexp.MustCompile(`(?:invalid value for (\S+) field (\S+):|(duplicate field) "?([^"\s]+)|invalid (google\.protobuf\.\w+) value)`)
)

// malformed says where JSON is wrong. What stands there is not repeated: it may be somebody's name.
func malformed(body []byte, err error) error {
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
	r := fault.Reason{Code: "malformed", Field: jsonPath(body, offsetOf(body, line, column))}
	what, wasZH := "not JSON", "不是合法的 JSON"
	if m := jsonErrorField.FindStringSubmatch(text); m != nil {
		switch {
		case m[1] != "":
			what, wasZH = "not a value of type "+m[1], "不是 "+m[1]+" 类型的值"
		case m[3] != "":
			what, wasZH = "field given twice", "字段重复"
		default:
			what, wasZH = "not a "+m[5], "不是 "+m[5]
		}
	} else if json.Valid(body) {
		what, wasZH = "a value of another type is expected", "值的类型不对"
	}
	r.EN = fmt.Sprintf("line %d, column %d: %s", line, column, what)
	r.ZH = fmt.Sprintf("第 %d 行第 %d 列：%s", line, column, wasZH)
	return r
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

// position is the line and column of the byte at offset: the opposite of offsetOf.
func position(body []byte, offset int) (line, column int) {
	head := body[:offset]
	return bytes.Count(head, []byte("\n")) + 1, utf8.RuneCount(head[bytes.LastIndexByte(head, '\n')+1:]) + 1
}

// maxPath is the most that is told of a path, bytes: it goes into headers.
const maxPath = 200

// jsonPath tells the path of the value at offset, "lines[0].quantity"; "" at the top. Of a body that breaks off before
// offset it is the path at which it does.
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

// jsonLevels are the objects and arrays that a value lies in, the outermost first.
type jsonLevels []jsonLevel

type jsonLevel struct {
	array bool
	// index is the present element of an array.
	index int
	// key is the present one of an object; wantsKey says that another one comes next.
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
	return cut(b.String(), maxPath)
}

// validate checks m against the rules in its .proto. The error is a fault.Reason that names the first field at fault,
// and in its text the others.
func validate(m proto.Message) error {
	broken, err := rule.Broken(m, "invalid")
	if err != nil || len(broken) == 0 {
		return err
	}
	const most = 5
	reason := broken[0]
	for _, r := range broken[1:min(len(broken), most)] {
		reason.ZH += "；" + r.Field + "：" + r.ZH
		reason.EN += "; " + r.Field + ": " + r.EN
	}
	if more := len(broken) - most; more > 0 {
		reason.ZH += fmt.Sprintf("；另有 %d 处", more)
		reason.EN += fmt.Sprintf("; and %d more", more)
	}
	return reason
}

// headerOf reads a header whatever the case of its name.
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
