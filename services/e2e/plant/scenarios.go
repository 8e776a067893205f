package plant

import "stockbridge/services/e2e/history"

// Scenario is the smallest run that provokes a bug. Package plant runs it over real processes.
type Scenario struct {
	Name string
	// Says what happens in it, for people.
	Says string
	// Faults are the kinds (package history) that it causes.
	Faults []string
	// Settings of the pusher besides the usual ones, KEY=VALUE.
	Settings []string
	// Reconciles: a reconciler runs in it.
	Reconciles bool
	// DeadlineSeconds is the promise's within it: far above what a healthy build takes on a busy machine.
	DeadlineSeconds float64
}

// Scenarios by name.
const (
	AuditedTwice   = "audited-twice"
	ClaimCut       = "claim-cut"
	AnswersLost    = "answers-lost"
	ReplayedTwice  = "replayed-twice"
	KilledAtAck    = "killed-at-ack"
	LedgerRestored = "ledger-restored"
	StreamRestored = "stream-restored"
	BrokerRestored = "broker-restored"
	LedgerWiped    = "ledger-wiped"
)

// Scenarios is all of them.
func Scenarios() []Scenario {
	return []Scenario{
		{
			Name: AuditedTwice, Says: "the ERP publishes an order again while JD takes long over it",
			Faults: []string{history.JDSlow}, Settings: []string{"PUSH_MAX_ATTEMPTS=2"}, DeadlineSeconds: 30,
		},
		{
			Name: ClaimCut, Says: "the ledger's answer to a claim is cut off; the client library asks again",
			Faults: []string{history.RedisCut}, DeadlineSeconds: 20,
		},
		{
			Name: AnswersLost, Says: "JD takes three orders and its answers are lost",
			Faults: []string{history.JDLost}, DeadlineSeconds: 30,
		},
		{
			Name: ReplayedTwice, Says: "JD refuses an order twice, and an operator replays it twice within the window for duplicates",
			DeadlineSeconds: 15,
		},
		{
			Name: KilledAtAck, Says: "the pusher is killed right behind the first acknowledgement that it sends",
			Faults: []string{history.Killed}, DeadlineSeconds: 15,
		},
		{
			Name: LedgerRestored, Says: "Redis is restored to a copy from before the orders, and the ERP publishes them again",
			Faults: []string{history.RedisRestored}, DeadlineSeconds: 60,
		},
		{
			Name: StreamRestored, Says: "JetStream is restored under a worker with an order in hand; the next order gets its number, and its call fails",
			Faults: []string{history.BrokerRestored, history.JDSlow, history.JDLost}, DeadlineSeconds: 25,
		},
		{
			Name: LedgerWiped, Says: "Redis is wiped, and nobody publishes anything again: the reconciler finds what JD has",
			Faults: []string{history.RedisWiped}, Reconciles: true, DeadlineSeconds: 40,
		},
		{
			Name: BrokerRestored, Says: "an order fails each time, and after each attempt the broker is back where it was before the first",
			Faults: []string{history.JDDown, history.BrokerRestored}, Settings: []string{"PUSH_MAX_ATTEMPTS=4", "PUSH_BREAKER_AFTER=1000"}, DeadlineSeconds: 20,
		},
	}
}
