package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	opsv1 "stockbridge/proto/ops/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Internal subjects: no seller may publish to them.
//
//	tick.<kind>.<seller>[.<place>]            a schedule that fires for ever
//	due.<kind>.<seller>[.<place>]             what it fires; the topic is <kind>.due
//	park.<consumer>.<origin>                  a schedule that fires once: a delayed retry
//	retry.<consumer>.<seller>                 what it fires, and what an operator replays
//	dlq.<consumer>.<stream>.<seq>             a dead letter that needs a person
//	dlq.<consumer>.many-<seller>-<code>.<n>   a group of messages that cannot be read
//	held.<consumer>.<stream>.<seq>            a message that waits for a cause
//	act.<seller>                              what an operator does, and did
const (
	tick  = "tick"
	due   = "due"
	delay = "park"
	retry = "retry"
	act   = "act"

	// Dead and Held are the two kinds of dead letters.
	Dead = "dlq"
	Held = "held"
)

// ReleaseDue says that it is time to check whether the causes that a seller's events wait for are gone. It is sent as a
// tick.
var ReleaseDue = Topic[*sellerv1.PollDue]{"release.due"}

// DocumentsDue is ReleaseDue for what is no order: each kind of ticks has one consumer.
var DocumentsDue = Topic[*sellerv1.PollDue]{"documents.due"}

// ReconcileDue says that it is time to compare what a seller's ERP audited with what its warehouses know. It is sent as
// a tick.
var ReconcileDue = Topic[*sellerv1.PollDue]{"reconcile.due"}

// Acted says what an operator is about to do, or did. If it is about several sellers or none, its seller is NoSeller.
var Acted = Topic[*opsv1.Act]{act}

// Kinds of ticks.
const (
	TickPoll    = "poll"
	TickRelease = "release"
	// TickDocuments is TickRelease for what is no order.
	TickDocuments = "documents"
	// TickReconcile compares what was audited with what the warehouse knows.
	TickReconcile = "reconcile"
	TickVMI       = "vmi"
	TickCount     = "count"
	TickShare     = "share"
)

// WorkersAsked is where workers are asked for their state. They answer directly; no stream stores it.
const WorkersAsked = "workers.asked"

// NoSeller stands in a subject in place of an unreadable event's seller.
const NoSeller = "_"

// IntakeSubjects are what ERPs publish.
func IntakeSubjects() []string { return subjectsOf(func(f Fact) bool { return f.FromERP }) }

// Documents are the first words of what ERPs publish about their documents, "order" first. The answers about each have a
// stream of their own.
func Documents() []string {
	var words []string
	for _, f := range facts {
		if word, _, _ := strings.Cut(f.Name, "."); f.FromERP && !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return words
}

// OutcomeSubjects are the answers about documents of the word. They are listed one by one, because no two streams may
// share a subject, and "order.>" would cover what ERPs publish.
func OutcomeSubjects(word string) []string {
	return subjectsOf(func(f Fact) bool { return !f.FromERP && strings.HasPrefix(f.Name, word+".") })
}

func subjectsOf(selects func(Fact) bool) (subjects []string) {
	for _, f := range facts {
		if selects(f) {
			subjects = append(subjects, f.Name, f.Name+".*")
		}
	}
	return subjects
}

// The subjects of the other streams.
var (
	SellerSubjects = []string{"seller.>"}
	StockSubjects  = []string{"stock.>"}
	VMISubjects    = []string{"vmi.>"}

	TickSubjects       = []string{tick + ".>", due + ".>"}
	RetrySubjects      = []string{delay + ".>", retry + ".>"}
	DeadLetterSubjects = []string{Dead + ".>", Held + ".>"}
	ActSubjects        = []string{act + ".>"}
)

// TickSubject holds the schedule of (kind, seller).
func TickSubject(kind, seller string) string { return tick + "." + kind + "." + seller }

// DueSubject is where it fires to.
func DueSubject(kind, seller string) string { return due + "." + kind + "." + seller }

// At is the subject of a schedule, or of what it fires, for one place of a seller (Place).
func At(subject, place string) string { return subject + "." + place }

// Place makes one token of a subject from what names a place, e.g. a warehouse and a shop. Different names make
// different tokens.
func Place(names ...string) string {
	const most = 40
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	readable := notToken.ReplaceAllString(strings.Join(names, "_"), "_")
	return readable[:min(len(readable), most)] + "-" + hex.EncodeToString(sum[:8])
}

var notToken = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// DueSubjects is the filter of a tick's consumer.
func DueSubjects(kind string) string { return due + "." + kind + ".>" }

// DelaySubject is where a message waits for a retry of consumer. origin must be one token and differ between any two
// messages: only the last of two on the same subject would fire.
func DelaySubject(consumer, origin string) string { return delay + "." + consumer + "." + origin }

// DelayedSubjects covers all delayed messages.
const DelayedSubjects = delay + ".>"

// ParseDelay returns the consumer and the origin in a DelaySubject.
func ParseDelay(subject string) (consumer, origin string, err error) {
	t := strings.Split(subject, ".")
	if len(t) == 3 && t[0] == delay {
		return t[1], t[2], nil
	}
	return "", "", fmt.Errorf("subject %q is not where a message is delayed", subject)
}

// RetrySubject is where a delayed message fires and a replayed one is sent; seller may be NoSeller.
func RetrySubject(consumer, seller string) string { return retry + "." + consumer + "." + seller }

// SellerOfRetry is the seller in a RetrySubject, NoSeller when it names none.
func SellerOfRetry(subject string) string {
	if t := strings.Split(subject, "."); len(t) == 3 && t[0] == retry && ValidSeller(t[2]) {
		return t[2]
	}
	return NoSeller
}

// RetryOf covers all retries and replays of consumer.
func RetryOf(consumer string) string { return retry + "." + consumer + ".>" }

// DeadLetterSubject keeps the message (stream, seq), which consumer could not handle. kind is Dead or Held.
func DeadLetterSubject(kind, consumer, stream string, seq uint64) string {
	return kind + "." + consumer + "." + stream + "." + strconv.FormatUint(seq, 10)
}

// groupWord begins the token that a group has in place of a stream. Names of streams are in capitals.
const groupWord = "many-"

// GroupSubject keeps the nth group of messages that consumer could not read, of one seller (or NoSeller) and with one
// reason code. It has the form of a DeadLetterSubject: filters, permissions and earlier builds cover both.
func GroupSubject(consumer, seller, code string, n uint64) string {
	return groupsOf(consumer, seller, code) + strconv.FormatUint(n, 10)
}

// GroupFilter covers the groups of a consumer, a seller and a code.
func GroupFilter(consumer, seller, code string) string { return groupsOf(consumer, seller, code) + "*" }

// groupsOf separates seller and code by the last hyphen: codes have none.
func groupsOf(consumer, seller, code string) string {
	return Dead + "." + consumer + "." + groupWord + seller + "-" + notToken.ReplaceAllString(code, "_") + "."
}

// ParseGroup returns the number in a GroupSubject; false for any other subject.
func ParseGroup(subject string) (n uint64, group bool) {
	t := strings.Split(subject, ".")
	if len(t) != 4 || t[0] != Dead || !strings.HasPrefix(t[2], groupWord) {
		return 0, false
	}
	n, err := strconv.ParseUint(t[3], 10, 64)
	return n, err == nil
}

// DeadLetterFilter covers the dead letters of kind and consumer; either may be empty for all.
func DeadLetterFilter(kind, consumer string) string {
	if kind == "" {
		kind = "*"
	}
	if consumer == "" {
		consumer = "*"
	}
	return kind + "." + consumer + ".>"
}

// ParseDeadLetter returns the kind and the consumer in a DeadLetterSubject. The stream and the number in it only
// separate messages: a retry is stored under RETRY, and the place of the original is in the headers.
func ParseDeadLetter(subject string) (kind, consumer string, err error) {
	t := strings.Split(subject, ".")
	if len(t) == 4 && (t[0] == Dead || t[0] == Held) {
		if _, err := strconv.ParseUint(t[3], 10, 64); err == nil {
			return t[0], t[1], nil
		}
	}
	return "", "", fmt.Errorf("subject %q is not that of a dead letter", subject)
}

// SellerOn is the seller in the subject of an event of the given name, public or internal; "" when the subject has
// none.
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

// ValidToken reports whether s can be one token of a subject: a kind, a consumer, an origin.
func ValidToken(s string) bool { return token.MatchString(s) }

// Header names. Attributes of CloudEvents are those of its NATS binding; the Bridge- ones are ours, are trusted only on
// internal streams, and are removed when an event leaves them.
const (
	HeaderID          = "ce-id"
	HeaderType        = "ce-type"
	HeaderSource      = "ce-source"
	HeaderSubject     = "ce-subject"
	HeaderTime        = "ce-time"
	HeaderSpec        = "ce-specversion"
	HeaderContentType = "Content-Type"
	HeaderTrace       = "traceparent"

	// OwnPrefix is the prefix of our headers.
	OwnPrefix = "Bridge-"

	// Where a retried, replayed or dead-lettered message was first stored.
	HeaderOriginSubject = "Bridge-Subject"
	HeaderOriginStream  = "Bridge-Stream"
	HeaderOriginSeq     = "Bridge-Sequence"
	HeaderOriginTime    = "Bridge-Stored"
	// How often it was delayed, which dead letter it was replayed from, in which round it was redelivered from its
	// stream, and by whom, why, and past which cause.
	HeaderDelays      = "Bridge-Parks"
	HeaderReplay      = "Bridge-Replay"
	HeaderRedelivered = "Bridge-Again"
	HeaderBy          = "Bridge-By"
	HeaderWhy         = "Bridge-Why"
	HeaderReleased    = "Bridge-Released"
	// Which call replayed it, and each earlier time that it was a dead letter.
	HeaderCall    = "Bridge-Call"
	HeaderEarlier = "Bridge-Earlier"
	// Why it is a dead letter.
	HeaderSeller   = "Bridge-Seller"
	HeaderKey      = "Bridge-Key"
	HeaderClass    = "Bridge-Class"
	HeaderCause    = "Bridge-Cause"
	HeaderReason   = "Bridge-Reason"
	HeaderError    = "Bridge-Error"
	HeaderAttempts = "Bridge-Attempts"
	HeaderFirst    = "Bridge-First"
	HeaderLast     = "Bridge-Last"
	// How many messages a group holds.
	HeaderCount = "Bridge-Count"
)
