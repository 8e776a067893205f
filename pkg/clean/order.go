package clean

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// What a text is for. An identifier is the zero value, so that a field which nobody sorted is treated most strictly.
type use int

const (
	identifies use = iota
	read           // by people
	number         // typed by people
	unsent         // goes to no warehouse and selects nothing
)

// uses are the fields that are no identifiers.
var uses = map[protoreflect.FullName]use{
	"order.v1.Receiver.name": read, "order.v1.Receiver.province": read, "order.v1.Receiver.city": read,
	"order.v1.Receiver.county": read, "order.v1.Receiver.town": read, "order.v1.Receiver.address": read,
	"order.v1.Audited.buyer_remark": read, "order.v1.Audited.seller_remark": read,
	"order.v1.Invoice.title": read, "order.v1.Invoice.content": read,
	"order.v1.Receiver.mobile": number, "order.v1.Receiver.phone": number, "order.v1.Receiver.email": number,
	"order.v1.Receiver.postcode": number, "order.v1.Invoice.tax_no": number,
	"order.v1.Line.name": unsent, "order.v1.Hold.reason": unsent,
}

// mayLose are the texts that may lack a character.
var mayLose = map[protoreflect.FullName]bool{"order.v1.Audited.buyer_remark": true, "order.v1.Audited.seller_remark": true}

// Result is a cleaned order.
type Result struct {
	// Order is the order as it is to be sent: the one that was given when nothing was to be done, else another one.
	Order *orderv1.Audited
	// Changed says what was changed, field by field.
	Changed []*orderv1.Cleaned
	// Wrong says what cannot be cleaned without changing what it means.
	Wrong []fault.Reason
}

// Order cleans all texts of an order. Doing it again changes nothing. It does not change o.
//
// A telephone number that nobody can call is dropped when the other one can be called, and wrong when not; see Callable.
// An area that is repeated at the head of the street is taken off it.
func Order(o *orderv1.Audited) Result {
	r := o.GetReceiver()
	if !dirty(o.ProtoReflect()) && (r == nil || usable(r.Mobile) && usable(r.Phone) && once(r.Address, area(r)) == r.Address) {
		return Result{Order: o}
	}
	w := &walk{Result: Result{Order: proto.CloneOf(o)}}
	w.message("", w.Order.ProtoReflect())
	if r := w.Order.GetReceiver(); r != nil {
		w.phones(r)
		if street := once(r.Address, area(r)); street != r.Address {
			r.Address = street
			w.changed("receiver.address", "repeated", "街道地址开头重复的省市区只发送一次", "the area repeated at the head of the street is sent once")
		}
	}
	return w.Result
}

func area(r *orderv1.Receiver) [4]string { return [4]string{r.Province, r.City, r.County, r.Town} }

// dirty tells whether a text in m is not plain.
func dirty(m protoreflect.Message) (yes bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Kind() == protoreflect.StringKind && fd.IsList():
			for i, list := 0, v.List(); i < list.Len() && !yes; i++ {
				yes = !plain(list.Get(i).String())
			}
		case fd.Kind() == protoreflect.StringKind:
			yes = !plain(v.String())
		case fd.Kind() == protoreflect.MessageKind && fd.IsList():
			for i, list := 0, v.List(); i < list.Len() && !yes; i++ {
				yes = dirty(list.Get(i).Message())
			}
		case fd.Kind() == protoreflect.MessageKind:
			yes = dirty(v.Message())
		}
		return !yes
	})
	return yes
}

// walk is one order being cleaned.
type walk struct{ Result }

func (w *walk) message(path string, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		at := path + string(fd.Name())
		switch {
		case fd.Kind() == protoreflect.StringKind && fd.IsList():
			list := m.Mutable(fd).List()
			for i := range list.Len() {
				if text, changed := w.text(at+"["+strconv.Itoa(i)+"]", fd.FullName(), list.Get(i).String()); changed {
					list.Set(i, protoreflect.ValueOfString(text))
				}
			}
		case fd.Kind() == protoreflect.StringKind:
			if text, changed := w.text(at, fd.FullName(), m.Get(fd).String()); changed {
				m.Set(fd, protoreflect.ValueOfString(text))
			}
		case fd.Kind() == protoreflect.MessageKind && fd.IsList():
			list := m.Mutable(fd).List()
			for i := range list.Len() {
				w.message(at+"["+strconv.Itoa(i)+"].", list.Get(i).Message())
			}
		case fd.Kind() == protoreflect.MessageKind:
			w.message(at+".", m.Mutable(fd).Message())
		}
	}
}

// text cleans the text of one field.
func (w *walk) text(field string, name protoreflect.FullName, text string) (fit string, changed bool) {
	if plain(text) {
		return text, false
	}
	var found what
	switch uses[name] {
	case unsent:
		return text, false
	case identifies:
		var inside rune
		if fit, found, inside = identifier(text); inside != 0 {
			w.refuse(field, fit, inside)
		}
	default:
		if fit, found = scrub(text, uses[name] == number); found&lost != 0 && !mayLose[name] {
			w.refuse(field, text, utf8.RuneError)
			found &^= lost
		}
	}
	if found != 0 {
		zh, en := found.say()
		w.changed(field, "characters", "已去除或替换："+zh, "removed or replaced: "+en)
	}
	return fit, fit != text
}

// refuse names a character that cannot be sent, and where it stands, but nothing around it.
func (w *walk) refuse(field, text string, r rune) {
	at := 0
	for _, one := range text {
		if at++; one == r {
			break
		}
	}
	reason := fault.Reason{
		Code: "text.character", Field: field,
		ZH: fmt.Sprintf("第 %d 个字符 %U 不能发送，去掉它会改变含义，请修改", at, r),
		EN: fmt.Sprintf("character %d, %U, cannot be sent, and without it the text may mean something else; correct it", at, r),
	}
	if r == utf8.RuneError {
		reason.ZH = fmt.Sprintf("第 %d 个字符在编码转换中丢失（U+FFFD），请重新提供原文", at)
		reason.EN = fmt.Sprintf("character %d was lost in another encoding (U+FFFD); send the text as it was", at)
	}
	w.Wrong = append(w.Wrong, reason)
}

func (w *walk) changed(field, how, zh, en string) {
	w.Changed = append(w.Changed, &orderv1.Cleaned{Field: field, What: how, Zh: zh, En: en})
}

// usable tells whether a telephone number may stay: it is none, can be called, or is hidden, which is another fault.
func usable(number string) bool {
	return number == "" || Callable(number) || Masked(number) || Ciphered(number)
}

// phones drops a number that nobody can call beside one that can be.
func (w *walk) phones(r *orderv1.Receiver) {
	mobile, phone := usable(r.Mobile), usable(r.Phone)
	drop := func(field string, number *string) {
		*number = ""
		w.changed(field, "dropped", "不是可拨打的号码，未发送", "not a number that can be called, so not sent")
	}
	switch {
	case !mobile && phone && r.Phone != "":
		drop("receiver.mobile", &r.Mobile)
	case !phone && mobile && r.Mobile != "":
		drop("receiver.phone", &r.Phone)
	case !mobile:
		w.uncallable("receiver.mobile")
	case !phone:
		w.uncallable("receiver.phone")
	}
}

func (w *walk) uncallable(field string) {
	w.Wrong = append(w.Wrong, fault.Reason{
		Code: "phone.uncallable", Field: field,
		ZH: "不是可拨打的号码：请提供手机号、带区号的固定电话，或带国家/地区代码的号码",
		EN: "not a number that can be called: give a mobile, a land line with its area code, or a number abroad with its country's code",
	})
}
