package bus

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"stockbridge/pkg/event"
)

// Operator is the NATS user of bridgectl: it lays out the topology and acts on everything.
const Operator = "bridgectl"

// User is a NATS user with only its subjects.
//
// # Why
//
// Ours share one account, each with inboxes of its own (InboxOf; Connect takes them): who may listen to _INBOX.> reads
// what the others are answered.
//
// A seller's ERP is in an account of its own, which sees nothing but what is imported into it. Permissions in a shared
// account do not keep sellers apart, however narrow: JetStream answers a publish to whatever subject the publisher names
// for the answer, as itself, and delivers a pulled message to whatever subject the puller names. An ERP that may publish
// one subject so writes to all of them, the set-up of other sellers included (TestASellerCannotReachBeyondItsSubjects).
// From an account of its own the answer only goes back into that account.
//
// A seller may not make consumers: a consumer can deliver to any subject, too. It reads through one durable consumer that
// the operator makes, with the filters that the operator chooses.
//
// A worker may tell every fact that we tell, and not only those that it tells today: an event that is rare is not told by
// any test of the permissions, and would be missed when it is needed.
type User struct {
	Name string
	// Publish and Subscribe are all the subjects it may, as our account calls them.
	Publish, Subscribe []string
	// erp: it stands in an account of its own.
	erp bool
	// answers: it may answer a question once, wherever the asker listens.
	answers bool
}

// InboxOf is where answers to a user of that name arrive, without the last tokens; "" when a name cannot be part of a
// subject.
func InboxOf(user string) string {
	if !event.ValidToken(user) {
		return ""
	}
	return "_INBOX." + user
}

// Users are those of all that is ours: one for each worker, by the service's name, and the Operator.
func Users() []User {
	var users []User
	for _, row := range consumers {
		if !ownsOthers(row.name) {
			continue
		}
		users = append(users, worker(row.name))
	}
	return append(users, operator())
}

// ownsOthers tells whether a consumer has its service's name. Other consumers of the service have it as a prefix.
func ownsOthers(consumer string) bool {
	return !slices.ContainsFunc(consumers, func(r consumerRow) bool { return strings.HasPrefix(consumer, r.name+"-") })
}

// projections are the streams that a service reads from the beginning, to make again what it knows.
var projections = map[string][]string{
	"vmi-ingester": {streamStock, streamVMI},
}

// worker is the user of a service.
func worker(service string) User {
	u := newUser(service)
	u.Subscribe, u.answers = append(u.Subscribe, event.WorkersAsked), true
	// It checks the topology, and tells what waits.
	u.may("$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*")
	shelves := false
	for _, row := range consumers {
		if row.name != service && !strings.HasPrefix(row.name, service+"-") {
			continue
		}
		u.reads(row.stream, row.name)
		u.may("$JS.API.STREAM.MSG.GET." + row.stream)
		if row.stream == streamTicks {
			continue // neither parked nor shelved
		}
		shelves = true
		u.reads(streamRetry, retryName(row.name))
		u.may(
			event.DelaySubject(row.name, "*"), event.RetrySubject(row.name, "*"),
			event.DeadLetterFilter(event.Dead, row.name), event.DeadLetterFilter(event.Held, row.name),
			// To let go on what its cause no longer holds, and to end what has stood there too long.
			"$JS.API.CONSUMER.CREATE."+streamShelf+".*."+event.DeadLetterFilter(event.Held, row.name),
			"$JS.API.CONSUMER.CREATE."+streamShelf+".*."+event.DeadLetterFilter(event.Dead, row.name),
		)
	}
	if shelves {
		u.may("$JS.API.STREAM.MSG.GET."+streamRetry, "$JS.API.STREAM.PURGE."+streamRetry,
			"$JS.API.STREAM.MSG.GET."+streamShelf, "$JS.API.STREAM.MSG.DELETE."+streamShelf,
			pullPrefix+streamShelf+".*", "$JS.API.CONSUMER.DELETE."+streamShelf+".*")
	}
	for _, stream := range projections[service] {
		// The server makes up no name for a consumer of several filters, so none of them is part of the call.
		u.may("$JS.API.STREAM.MSG.GET."+stream, "$JS.API.CONSUMER.CREATE."+stream+".*", pullPrefix+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*")
	}
	for _, row := range consumers {
		if row.name == overseen[service] {
			u.oversees(row)
		}
	}
	for _, f := range event.Facts() {
		if !f.FromERP {
			u.may(f.Name + ".*")
		}
	}
	for _, row := range streams {
		if row.public && !row.intake { // to look at what an event of ours is taken for
			u.may("$JS.API.STREAM.MSG.GET." + row.name)
		}
	}
	for _, b := range buckets {
		u.watches(b.name)
		u.may("$KV." + b.name + "." + b.workers)
	}
	return u
}

// overseen is the consumer that a service looks after: it reads what that one takes and where that stands, and may send it
// again (Bus.Again).
var overseen = map[string]string{"reconciler": "order-pusher"}

// leavesReadings: it may not remove a consumer from a public stream, because permissions cannot tell the one that it read
// by from the one that it looks after. What it leaves goes away by itself.
func leavesReadings(user string) bool { return overseen[user] != "" }

func (u *User) oversees(row consumerRow) {
	// Where what it takes stands, today and from earlier builds, and where the outcomes do.
	for _, stream := range append(Holding(row.topic), StreamOrders) {
		u.may("$JS.API.STREAM.MSG.GET."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>", pullPrefix+stream+".*")
	}
	u.may("$JS.API.STREAM.MSG.GET."+streamRetry, event.RetrySubject(row.name, "*"),
		"$JS.API.CONSUMER.CREATE."+streamShelf+".*."+event.DeadLetterFilter(event.Dead, row.name),
		"$JS.API.CONSUMER.CREATE."+streamShelf+".*."+event.DeadLetterFilter(event.Held, row.name),
		pullPrefix+streamShelf+".*", "$JS.API.CONSUMER.DELETE."+streamShelf+".*")
}

// operator is the user of bridgectl.
func operator() User {
	u := newUser(Operator)
	u.may("$JS.API.>", "$JS.ACK.>", "$JS.FC.>", event.WorkersAsked)
	for _, row := range streams {
		u.may(row.subjects...)
	}
	for _, b := range buckets {
		u.may("$KV." + b.name + ".>")
	}
	return u
}

// SellerUser is the user of a seller's ERP, erp-<seller>: it publishes what an ERP publishes, of this seller only, and
// reads what is told of it: live by subscribing, and durably through the consumer of its own name on each public stream,
// when the operator has made one. It must stand in an account of its own, as WriteUsers puts it.
func SellerUser(seller string) (User, error) {
	if !event.ValidSeller(seller) {
		return User{}, fmt.Errorf("seller %q: want a-z, 0-9, _ and -, 32 at most", seller)
	}
	u := User{Name: "erp-" + seller, erp: true, Subscribe: []string{anyInbox}}
	for _, f := range event.Facts() {
		if f.FromERP {
			u.may(f.Name + "." + seller)
		} else {
			u.Subscribe = append(u.Subscribe, f.Name+"."+seller)
		}
	}
	for _, row := range streams {
		if row.public && !row.intake {
			u.may("$JS.API.CONSUMER.INFO." + row.name + "." + u.Name)
			u.reads(row.name, u.Name)
		}
	}
	return u, nil
}

// anyInbox is every inbox of an account.
const anyInbox = "_INBOX.>"

func newUser(name string) User { return User{Name: name, Subscribe: []string{InboxOf(name) + ".>"}} }

func (u *User) may(subjects ...string) {
	for _, s := range subjects {
		if !slices.Contains(u.Publish, s) {
			u.Publish = append(u.Publish, s)
		}
	}
}

// reads lets it pull from a consumer and settle what came. The second form of acks is the one that NATS changes to, with
// the domain and the account in front (feature flag js_ack_fc_v2).
func (u *User) reads(stream, consumer string) {
	u.may(pullPrefix+stream+"."+consumer,
		"$JS.ACK."+stream+"."+consumer+".>", "$JS.ACK.*.*."+stream+"."+consumer+".>")
}

// watches lets it read a bucket and follow its changes.
func (u *User) watches(bucket string) {
	stream := bucketPrefix + bucket
	u.may("$JS.API.DIRECT.GET."+stream+".>", "$JS.API.STREAM.MSG.GET."+stream,
		"$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.DELETE."+stream+".*", "$JS.FC."+stream+".>")
}

// WriteUsers writes the users of ours and of the sellers as a file that a server's configuration includes. Passwords, or
// their bcrypt hashes, come from the server's environment.
func WriteUsers(w io.Writer, sellers ...string) error {
	var erps []User
	seen := map[string]string{}
	for _, seller := range sellers {
		u, err := SellerUser(seller)
		if err != nil {
			return err
		}
		if other, taken := seen[wordOf(u.Name)]; taken {
			return fmt.Errorf("users %s and %s: %w", other, u.Name, errSameWord)
		}
		seen[wordOf(u.Name)] = u.Name
		erps = append(erps, u)
	}
	var out strings.Builder
	out.WriteString(usersHead)
	fmt.Fprintf(&out, "  %s {\n    jetstream: enabled\n    users: [\n", account)
	for _, u := range Users() {
		u.write(&out)
	}
	out.WriteString("    ]\n    exports: [\n")
	for _, u := range erps {
		u.exports(&out)
	}
	out.WriteString("    ]\n  }\n")
	for _, u := range erps {
		fmt.Fprintf(&out, "  %s {\n    users: [\n", wordOf(u.Name))
		u.write(&out)
		out.WriteString("    ]\n    imports: [\n")
		u.imports(&out)
		out.WriteString("    ]\n  }\n")
	}
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

var errSameWord = errors.New("they would share an account and a password; leave one out and add it by hand")

// account is that of everything of ours.
const account = "STOCKBRIDGE"

const usersHead = `# Users with only their subjects. Made by bridgectl topology users: make it again after an upgrade, do not edit.
# 每个用户只能访问自己的主题。由 bridgectl topology users 生成，升级后请重新生成，勿手工修改。
# A password is a variable of the server's environment: text that begins with a letter, or its bcrypt hash.
# Of ours each has inboxes of its own, _INBOX.<user>.>. An ERP stands in an account of its own: permissions alone do not
# keep sellers apart, because JetStream answers to whatever subject a publisher names.
accounts {
`

// wordOf is a user's name in capitals: its account, and the beginning of its password's variable.
func wordOf(user string) string { return strings.ToUpper(strings.ReplaceAll(user, "-", "_")) }

// Domain is the JetStream domain that an ERP's client names to read through its consumer. $JS.API itself is taken in each
// account: by the server, which tells an account without streams that it has none.
const Domain = "bridge"

const apiPrefix = "$JS.API."

// inside is a subject of our API as it is called in an ERP's account.
func inside(subject string) string {
	if call, ok := strings.CutPrefix(subject, apiPrefix); ok {
		return "$JS." + Domain + ".API." + call
	}
	return subject
}

func (u User) write(out *strings.Builder) {
	fmt.Fprintf(out, "      {\n        user: %q, password: $%s_PASSWORD\n        permissions {\n", u.Name, wordOf(u.Name))
	for _, may := range []struct {
		what     string
		subjects []string
	}{{"publish", u.Publish}, {"subscribe", u.Subscribe}} {
		fmt.Fprintf(out, "          %s: { allow: [\n", may.what)
		for _, s := range may.subjects {
			if u.erp {
				s = inside(s)
			}
			fmt.Fprintf(out, "            %q\n", s)
		}
		out.WriteString("          ] }\n")
	}
	if u.answers {
		out.WriteString("          allow_responses: { max: 1, expires: \"10s\" }\n")
	}
	out.WriteString("        }\n      }\n")
}

// exports and imports carry what an ERP publishes into our account, and what it may hear out of it.
func (u User) exports(out *strings.Builder) {
	for _, s := range u.Publish {
		several := ""
		if strings.HasPrefix(s, pullPrefix) {
			several = "response_type: stream, " // a pull is answered by messages and statuses
		}
		fmt.Fprintf(out, "      { service: %q, %saccounts: [%s] }\n", s, several, wordOf(u.Name))
	}
	for _, s := range u.Subscribe {
		if s != anyInbox {
			fmt.Fprintf(out, "      { stream: %q, accounts: [%s] }\n", s, wordOf(u.Name))
		}
	}
}

func (u User) imports(out *strings.Builder) {
	for _, s := range u.Publish {
		fmt.Fprintf(out, "      { service: { account: %s, subject: %q }, to: %q }\n", account, s, inside(s))
	}
	for _, s := range u.Subscribe {
		if s != anyInbox {
			fmt.Fprintf(out, "      { stream: { account: %s, subject: %q } }\n", account, s)
		}
	}
}

const pullPrefix = "$JS.API.CONSUMER.MSG.NEXT."
