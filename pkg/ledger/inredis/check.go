package inredis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"stockbridge/pkg/fault"
)

// Check connects, writes, and reports the server settings that endanger the ledger: one fault.Reason each, joined. It
// also reports refused writes, as an error that may pass.
func (l *Ledger) Check(ctx context.Context) error {
	info, err := l.client.InfoMap(ctx, "persistence", "memory", "replication").Result()
	if err != nil {
		return fmt.Errorf("check ledger: reach Redis: %w", err)
	}
	if info["Persistence"]["loading"] == "1" {
		// While Redis reads its append-only file it reports it as off.
		return errors.New("check ledger: Redis is still reading its data")
	}
	var faults []error
	if role := info["Replication"]["role"]; role != "master" {
		faults = append(faults, fault.Reason{
			Code: "ledger.replica",
			ZH:   "Redis 是从节点（role:" + role + "）：请把 REDIS_URL 指向主节点",
			EN:   "Redis is a replica (role:" + role + "): point REDIS_URL at the master",
		})
	}
	if policy := info["Memory"]["maxmemory_policy"]; policy != "noeviction" {
		faults = append(faults, fault.Reason{
			Code: "ledger.evicting",
			ZH:   "Redis 内存满时会淘汰数据（maxmemory-policy " + policy + "），账本数据会随之丢失：请执行 CONFIG SET maxmemory-policy noeviction 并写入 redis.conf",
			EN:   "Redis drops data when its memory is full (maxmemory-policy " + policy + ") and the ledger with it: CONFIG SET maxmemory-policy noeviction, and in redis.conf",
		})
	}
	if info["Persistence"]["aof_enabled"] != "1" {
		faults = append(faults, l.checkSnapshots(ctx))
	}
	if info["Replication"]["role"] == "master" { // a replica accepts none, as reported above
		faults = append(faults, l.checkWrites(ctx))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("check ledger: %w", err)
	}
	return nil
}

// checkSnapshots is for a server without an append-only file: INFO does not say whether it saves snapshots.
func (l *Ledger) checkSnapshots(ctx context.Context) error {
	save, err := l.client.ConfigGet(ctx, "save").Result()
	if err == nil && strings.TrimSpace(save["save"]) != "" {
		return nil
	}
	r := fault.Reason{
		Code: "ledger.volatile",
		ZH:   "Redis 没有开启持久化，重启后账本数据会丢失：请执行 CONFIG SET appendonly yes 并写入 redis.conf",
		EN:   "Redis keeps nothing over a restart: CONFIG SET appendonly yes, and in redis.conf",
	}
	if err != nil {
		r.ZH = "Redis 没有开启 AOF，且无法读取 save 设置（" + err.Error() + "）：请开启 appendonly"
		r.EN = "Redis has no append-only file, and whether it saves snapshots cannot be read (" + err.Error() + "): switch appendonly on"
	}
	return r
}

// writeErrors are Redis' answers when it accepts no writes, by their first word, and what to do about each. Each ends
// when its cause does.
var writeErrors = []struct{ prefix, en, zh string }{
	{"OOM", "its memory is full: raise maxmemory or remove what is not ours; never evict", "内存已满：请调大 maxmemory 或清理其他数据，切勿启用淘汰"},
	{"MISCONF", "it cannot save to its disk: free space there (INFO persistence: aof_last_write_status, rdb_last_bgsave_status)", "无法写入磁盘（AOF 或快照）：请释放磁盘空间"},
	{"NOREPLICAS", "too few replicas are connected (min-replicas-to-write): bring them back", "已连接的从节点不足（min-replicas-to-write）：请恢复从节点"},
	{"READONLY", "it has become a replica: point REDIS_URL at the master", "已成为从节点：请把 REDIS_URL 指向主节点"},
}

// checkWrites writes: a Redis whose memory or disk is full still answers everything else. Its error is no
// fault.Reason, which is for faults that only other settings fix.
func (l *Ledger) checkWrites(ctx context.Context) error {
	err := l.client.Set(ctx, prefix+"check", time.Now().UTC().Format(time.RFC3339), checkTTL).Err()
	if err == nil {
		return nil
	}
	for _, r := range writeErrors {
		if prefix, _, _ := strings.Cut(err.Error(), " "); prefix == r.prefix {
			return fmt.Errorf("Redis refuses writes: %s. Redis 拒绝写入，%s: %w", r.en, r.zh, err)
		}
	}
	return fmt.Errorf("write to Redis: %w", err)
}

// checkTTL is how long the value that checkWrites wrote stays.
const checkTTL = time.Hour
