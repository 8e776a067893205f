package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	opsv1 "stockbridge/proto/ops/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// What is said only inside: no seller may publish to these subjects.
//
//	tick.<kind>.<seller>[.<place>]            a schedule that fires for ever
//	due.<kind>.<seller>[.<place>]             what it fires; the topic is <kind>.due
//	park.<consumer>.<origin>                  a schedule that fires once: a retry that is far away
//	retry.<consumer>.<seller>                 what it fires, and what an operator replays
//	dlq.<consumer>.<stream>.<seq>             needs a person
//	held.<consumer>.<stream>.<seq>            waits for a cause
//	act.<seller>                              what an operator does, and did
const (
	tick  = "tick"
	due   = "due"
	delay = "park"
	retry = "retry"
	act   = "act"

	// Dead and Held are the two kinds of shelf.
	Dead = "dlq"
	Held = "held"
)

// ReleaseDue says that it is time to look whether what a seller's events wait for is gone. It travels on a tick.
var ReleaseDue = Topic[*sellerv1.PollDue]{"release.due"}

// ReconcileDue says that it is time to compare what a seller's ERP audited with what its warehouses know. It travels on a
// tick.
var ReconcileDue = Topic[*sellerv1.PollDue]{"reconcile.due"}

// Acted says what an operator is about to do, or did. About several sellers or none its seller is NoSeller.
var Acted = Topic[*opsv1.Act]{act}

// Kinds of ticks.
const (
	TickPoll    = "poll"
	TickRelease = "release"
	// TickReconcile compares what was audited with what the far side knows.
	TickReconcile = "reconcile"
	TickVMI       = "vmi"
	TickCount     = "count"
	TickShare     = "share"
)

// WorkersAsked is where all workers are asked how they are. It is answered directly and stands in no stream.
const WorkersAsked = "workers.asked"

// NoSeller stands in a subject where the seller of an unreadable event is not known.
const NoSeller = "_"

// IntakeSubjects are what ERPs publish.
func IntakeSubjects() []string { return subjectsOf(func(f Fact) bool { return f.FromERP }) }

// OrderSubjects are what is answered about orders. They are listed one by one, because no two streams may have a subject
// in common, and "order.>" would take what ERPs publish.
func OrderSubjects() []string {
	return subjectsOf(func(f Fact) bool { return !f.FromERP && strings.HasPrefix(f.Name, "order.") })
}

func subjectsOf(selects func(Fact) bool) (subjects []string) {
	for _, f := range facts {
		if selects(f) {
			subjects = append(subjects, f.Name, f.Name+".*")
		}
	}
	return subjects
}

// What each of the other streams takes.
var (
	SellerSubjects = []string{"seller.>"}
	StockSubjects  = []string{"stock.>"}
	VMISubjects    = []string{"vmi.>"}

	TickSubjects       = []string{tick + ".>", due + ".>"}
	RetrySubjects      = []string{delay + ".>", retry + ".>"}
	DeadLetterSubjects = []string{Dead + ".>", Held + ".>"}
	ActSubjects        = []string{act + ".>"}
)

// TickSubject is where the schedule of (kind, seller) stands.
func TickSubject(kind, seller string) string { return tick + "." + kind + "." + seller }

// DueSubject is where it fires to.
func DueSubject(kind, seller string) string { return due + "." + kind + "." + seller }

// At is the subject of a schedule, or what it fires to, for one place of a seller (Place).
func At(subject, place string) string { return subject + "." + place }

// Place makes one token of a subject of what names a place, e.g. a warehouse and a shop. Other names make another token.
func Place(names ...string) string {
	const most = 40
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	readable := unfit.ReplaceAllString(strings.Join(names, "_"), "_")
	return readable[:min(len(readable), most)] + "-" + hex.EncodeToString(sum[:8])
}

var unfit = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// DueSubjects is what the consumer of a kind of tick takes.
func DueSubjects(kind string) string { return due + "." + kind + ".>" }

// DelaySubject is where a message waits for a retry of consumer. origin must be one token and differ between any two
// messages: of two that share a subject only the last would come back.
func DelaySubject(consumer, origin string) string { return delay + "." + consumer + "." + origin }

// Parked is all that is parked.
const DelayedSubjects = delay + ".>"

// ParsePark tells the consumer and the origin in a DelaySubject.
func ParseDelay(subject string) (consumer, origin string, err error) {
	t := strings.Split(subject, ".")
	if len(t) == 3 && t[0] == delay {
		return t[1], t[2], nil
	}
	return "", "", fmt.Errorf("subject %q is not where a message is parked", subject)
}

// RetrySubject is where a parked or replayed message comes back; seller may be NoSeller.
func RetrySubject(consumer, seller string) string { return retry + "." + consumer + "." + seller }

// RetryOf is all that comes back to consumer.
func RetryOf(consumer string) string { return retry + "." + consumer + ".>" }

// DeadLetterSubject is where the message (stream, seq), which consumer could not handle, is kept. kind is Dead or Held.
func DeadLetterSubject(kind, consumer, stream string, seq uint64) string {
	return kind + "." + consumer + "." + stream + "." + strconv.FormatUint(seq, 10)
}

// ShelfFilter is the shelf of kind and consumer; either may be empty for all.
func DeadLetterFilter(kind, consumer string) string {
	if kind == "" {
		kind = "*"
	}
	if consumer == "" {
		consumer = "*"
	}
	return kind + "." + consumer + ".>"
}

// ParseShelf tells the kind and the consumer in a DeadLetterSubject. The stream and the number in it only keep two messages
// apart: a retry stands there under RETRY, and where the original stood travels in the headers.
func ParseDeadLetter(subject string) (kind, consumer string, err error) {
	t := strings.Split(subject, ".")
	if len(t) == 4 && (t[0] == Dead || t[0] == Held) {
		if _, err := strconv.ParseUint(t[3], 10, 64); err == nil {
			return t[0], t[1], nil
		}
	}
	return "", "", fmt.Errorf("subject %q is not on the shelf", subject)
}

// SellerOn tells the seller in the subject on which an event of the given name travels, inside or outside; "" when the
// subject has none.
func SellerOn(name, subject string) (string, error) {
	if kind, ok := strings.CutSuffix(name, "."+due); ok {
		if rest, ok := strings.CutPrefix(subject, due+"."+kind+"."); ok {
			seller, place, placed := strings.Cut(rest, ".")
			if ValidSeller(seller) && (!placed || ValidToken(place)) {
				return seller, nil
			}
		}
	}
	return suffixOf(name, subject)
}

var token = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// ValidToken tells whether s can be one token of a subject here: a kind, a consumer, an origin.
func ValidToken(s string) bool { return token.MatchString(s) }

// Header names. Attributes of CloudEvents are those of its NATS binding; the Bridge- ones are ours, are believed only
// on internal streams, and are left out when an event leaves them.
const (
	HeaderID          = "ce-id"
	HeaderType        = "ce-type"
	HeaderSource      = "ce-source"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderSpec        = "ce-specversion"
	HeaderContentType = "Content-Type"
	HeaderTrace       = "traceparent"

	// OwnPrefix begins every header of ours.
	OwnPrefix = "Bridge-"

	// Where a retried, replayed or shelved message came from.
	HeaderOriginSubject = "Bridge-Subject"
	HeaderOriginStream  = "Bridge-Stream"
	HeaderOriginSeq     = "Bridge-Sequence"
	HeaderOriginTime    = "Bridge-Stored"
	// How often it was parked, which shelf message it was replayed from, in which round it was sent again from its stream,
	// and by whom, why, and past which cause.
	HeaderDelays      = "Bridge-Parks"
	HeaderReplay      = "Bridge-Replay"
	HeaderRedelivered = "Bridge-Again"
	HeaderBy          = "Bridge-By"
	HeaderWhy         = "Bridge-Why"
	HeaderReleased    = "Bridge-Released"
	// Which call replayed it, and where it stood before that, once for each time.
	HeaderCall    = "Bridge-Call"
	HeaderEarlier = "Bridge-Earlier"
	// Why it stands on the shelf.
	HeaderSeller   = "Bridge-Seller"
	HeaderKey      = "Bridge-Key"
	HeaderClass    = "Bridge-Class"
	HeaderCause    = "Bridge-Cause"
	HeaderReason   = "Bridge-Reason"
	HeaderError    = "Bridge-Error"
	HeaderAttempts = "Bridge-Attempts"
	HeaderFirst    = "Bridge-First"
	HeaderLast     = "Bridge-Last"
)
