package clean

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// use is what a text is for. An identifier is the zero value, so that an unclassified field is treated most strictly.
type use int

const (
	identifierUse use = iota
	readUse           // by people
	typedUse          // typed by people
	unsentUse         // goes to no warehouse and selects nothing
)

// uses are the fields that are not identifiers.
var uses = map[protoreflect.FullName]use{
	"order.v1.Receiver.name": readUse, "order.v1.Receiver.province": readUse, "order.v1.Receiver.city": readUse,
	"order.v1.Receiver.county": readUse, "order.v1.Receiver.town": readUse, "order.v1.Receiver.address": readUse,
	"order.v1.Audited.buyer_remark": readUse, "order.v1.Audited.seller_remark": readUse,
	"order.v1.Invoice.title": readUse, "order.v1.Invoice.content": readUse,
	"order.v1.Receiver.mobile": typedUse, "order.v1.Receiver.phone": typedUse, "order.v1.Receiver.email": typedUse,
	"order.v1.Receiver.postcode": typedUse, "order.v1.Invoice.tax_no": typedUse,
	"order.v1.Line.name": unsentUse, "order.v1.Hold.reason": unsentUse,

	"purchase.v1.Audited.remark": readUse, "purchase.v1.Line.name": unsentUse,
}

// mayLose are the texts that may lack a character.
var mayLose = map[protoreflect.FullName]bool{
	"order.v1.Audited.buyer_remark": true, "order.v1.Audited.seller_remark": true, "purchase.v1.Audited.remark": true,
}

// Result is a cleaned order.
type Result struct {
	// Order is the order to send: the given one when nothing was to be done, else a copy.
	Order *orderv1.Audited
	Changes
}

// PurchaseResult is a cleaned purchase order.
type PurchaseResult struct {
	// Purchase is the one to send: the given one when nothing was to be done, else a copy.
	Purchase *purchasev1.Audited
	Changes
}

// Changes is what cleaning did to a document.
type Changes struct {
	// Changed are the changes, field by field.
	Changed []*documentv1.Cleaned
	// Wrong are faults that cannot be cleaned without changing the meaning.
	Wrong []fault.Reason
}

// Order cleans all texts of an order. It is idempotent and does not change o.
//
// A telephone number that nobody can call is dropped when the other one can be called, else it is wrong; see
// Callable. An area that is repeated at the head of the street is removed from it.
func Order(o *orderv1.Audited) Result {
	r := o.GetReceiver()
	if !needsCleaning(o.ProtoReflect()) && (r == nil || usable(r.Mobile) && usable(r.Phone) && once(r.Address, area(r)) == r.Address) {
		return Result{Order: o}
	}
	o = proto.CloneOf(o)
	w := &walk{}
	w.message("", o.ProtoReflect())
	if r := o.GetReceiver(); r != nil {
		w.phones(r)
		if street := once(r.Address, area(r)); street != r.Address {
			r.Address = street
			w.changed("receiver.address", "repeated", "街道地址开头重复的省市区只发送一次", "the area repeated at the head of the street is sent once")
		}
	}
	return Result{o, w.Changes}
}

// Purchase cleans all texts of a purchase order. It is idempotent and does not change p.
func Purchase(p *purchasev1.Audited) PurchaseResult {
	if !needsCleaning(p.ProtoReflect()) {
		return PurchaseResult{Purchase: p}
	}
	p = proto.CloneOf(p)
	w := &walk{}
	w.message("", p.ProtoReflect())
	return PurchaseResult{p, w.Changes}
}

func area(r *orderv1.Receiver) [4]string { return [4]string{r.Province, r.City, r.County, r.Town} }

// needsCleaning reports whether a text in m is not plain.
func needsCleaning(m protoreflect.Message) (yes bool) {
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
				yes = needsCleaning(list.Get(i).Message())
			}
		case fd.Kind() == protoreflect.MessageKind:
			yes = needsCleaning(v.Message())
		}
		return !yes
	})
	return yes
}

// walk is one document being cleaned.
type walk struct{ Changes }

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
	var found noiseKind
	switch uses[name] {
	case unsentUse:
		return text, false
	case identifierUse:
		var inside rune
		if fit, found, inside = identifier(text); inside != 0 {
			w.refuse(field, fit, inside)
		}
	default:
		if fit, found = scrub(text, uses[name] == typedUse); found&lost != 0 && !mayLose[name] {
			w.refuse(field, text, utf8.RuneError)
			found &^= lost
		}
	}
	if found != 0 {
		zh, en := found.describe()
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
	w.Changed = append(w.Changed, &documentv1.Cleaned{Field: field, What: how, Zh: zh, En: en})
}

// usable reports whether a telephone number may stay: it is empty, can be called, or is masked, which is another
// fault.
func usable(number string) bool {
	return number == "" || Callable(number) || Masked(number) || Ciphered(number)
}

// phones drops a number that nobody can call beside one that can be called.
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
