-- One turn's changes of a shard, all or nothing. The broker has decided them; here they are fenced and
-- written. redis_commit.c lays the arguments out; runs of jobs of one hash lie together, so that they go
-- into variadic commands without being copied. Lua does not roll back: what can be refused is looked at
-- before the first write.
--
-- KEYS owner segments req ref dead dead:req reg count events, then one key for each run and each large
-- value, in the order of ARGV. ARGV epoch, sequence, prefix of live keys, prefix of body keys, then the
-- sections below, in the order of `commit`. Answer: verdict (as mq_store_verdict), number of changes
-- without a job, positions of refused candidates.

local OK, DUP, FENCED, GAP = 0, 1, 2, 3
local SEGMENTS, REQ, REF, DEAD, DEAD_REQ, REG, COUNT, EVENTS = 2, 3, 4, 5, 6, 7, 8, 9

-- A bucket lives until the last retention in it is over; moved a little further each time, so that not
-- every commit has to.
local function keep(key, retention)
  if redis.call('PTTL', key) < retention then
    redis.call('PEXPIRE', key, retention + math.min(60000, math.floor(retention / 8)))
  end
end

-- Adds the ids from..to that are fields of key to the set `dup`.
local function mark(key, ids, from, to, dup)
  local found = redis.call('HMGET', key, unpack(ids, from, to))
  for i = 1, to - from + 1 do
    if found[i] then dup[ids[from + i - 1]] = true end
  end
end

-- The same in everything but a done bucket: req has a field for every live job.
local function mark_open(K, ids, from, to, dup)
  mark(K[REQ], ids, from, to, dup)
  if redis.call('EXISTS', K[DEAD]) == 1 then mark(K[DEAD], ids, from, to, dup) end
end

-- HSET of n pairs that lie at A[p], without those whose id is in skip. How many were written.
local function set_pairs(key, A, p, n, skip)
  if not next(skip) then
    redis.call('HSET', key, unpack(A, p, p + 2 * n - 1))
    return n
  end
  local t, m = {}, 0
  for i = p, p + 2 * n - 2, 2 do
    if not skip[A[i]] then
      t[m + 1], t[m + 2] = A[i], A[i + 1]
      m = m + 2
    end
  end
  if m > 0 then redis.call('HSET', key, unpack(t, 1, m)) end
  return m / 2
end

-- Whether a live job stood in the segment `key` before this commit touched it: it is live, and in no
-- other segment. Only asked when a count shows that something is wrong.
local function belongs(c, key, id)
  if redis.call('HEXISTS', c.K[REQ], id) == 0 then return false end
  for _, segment in ipairs(redis.call('SMEMBERS', c.K[SEGMENTS])) do
    local other = c.live .. segment
    if other ~= key and redis.call('HEXISTS', other, id) == 1 then return false end
  end
  return true
end

local function drop_body(c, id, token)
  redis.call('UNLINK', c.body .. token .. ':' .. id)
  redis.call('HDEL', c.K[REF], id)
end

-- bodies: n, n x (candidate position, token), n keys; results: n, n x retention, n keys. They were
-- written before; a value that is not there would be an acknowledged job without its body.
local function large_is_there(c)
  local A, p = c.A, c.p
  local bodies = tonumber(A[p])
  local results = tonumber(A[p + 1 + 2 * bodies])
  c.body_at, c.result_at, c.large_key = p, p + 1 + 2 * bodies, c.k
  c.p, c.k = c.result_at + 1 + results, c.k + bodies + results
  local n = bodies + results
  return n == 0 or redis.call('EXISTS', unpack(c.K, c.large_key, c.k - 1)) == n
end

-- What was published becomes permanent, or lives as long as its job is kept.
local function publish_large(c)
  local A, k, p = c.A, c.large_key, c.body_at
  for _ = 1, tonumber(A[p]) do
    local id = c.ids[tonumber(A[p + 1])]
    if c.dup[id] then
      redis.call('UNLINK', c.K[k])
    else
      redis.call('PERSIST', c.K[k])
      redis.call('HSET', c.K[REF], id, A[p + 2])
    end
    p, k = p + 2, k + 1
  end
  p = c.result_at
  for i = 1, tonumber(A[p]) do
    redis.call('PEXPIRE', c.K[k], A[p + i])
    k = k + 1
  end
end

-- n, n x (id, record, body) by minute of the id; runs: r, r x count (key: done); r, r x (segment,
-- count) (key: live).
local function create(c)
  local K, A, p, k = c.K, c.A, c.p, c.k
  local n, first, ids, dup = tonumber(A[p]), p + 1, c.ids, c.dup
  for i = 1, n do ids[i] = A[first + 3 * i - 3] end
  if n > 0 then mark_open(K, ids, 1, n, dup) end
  p = first + 3 * n
  local from = 1
  for i = 1, tonumber(A[p]) do
    local to = from + tonumber(A[p + i]) - 1
    mark(K[k], ids, from, to, dup)
    k, from = k + 1, to + 1
  end
  p = p + tonumber(A[p]) + 1
  local t, m = {}, 0
  for i = 1, n do
    if dup[ids[i]] then
      c.refused[#c.refused + 1] = i - 1
    else
      t[m + 1], t[m + 2] = ids[i], A[first + 3 * i - 1]
      m = m + 2
    end
  end
  if m > 0 then redis.call('HSET', K[REQ], unpack(t, 1, m)) end
  from = 1
  for _ = 1, tonumber(A[p]) do
    local to = from + tonumber(A[p + 2]) - 1
    m = 0
    for i = from, to do
      if not dup[ids[i]] then
        t[m + 1], t[m + 2] = ids[i], A[first + 3 * i - 2]
        m = m + 2
      end
    end
    if m > 0 then
      redis.call('HSET', K[k], unpack(t, 1, m))
      redis.call('SADD', K[SEGMENTS], A[p + 1])
    end
    p, k, from = p + 2, k + 1, to + 1
  end
  c.p, c.k = p + 1, k
end

-- Created and ended at once. r, r x (retention, count, count x (id, value)) (key: done).
local function finish_new(c)
  local K, A, p, k = c.K, c.A, c.p, c.k
  local at = #c.ids
  for _ = 1, tonumber(A[p]) do
    local retention, n = tonumber(A[p + 1]), tonumber(A[p + 2])
    local ids, dup = {}, {}
    for i = 1, n do ids[i] = A[p + 1 + 2 * i] end
    mark_open(K, ids, 1, n, dup)
    mark(K[k], ids, 1, n, dup)
    for i = 1, n do
      if dup[ids[i]] then c.refused[#c.refused + 1] = at + i - 1 end
    end
    if set_pairs(K[k], A, p + 3, n, dup) > 0 then keep(K[k], retention) end
    p, k, at = p + 2 + 2 * n, k + 1, at + n
  end
  c.p, c.k = p + 1, k
end

-- r, r x (count, count x (id, record)) (key: live). A new field is a job that was not there: taken
-- back and counted.
local function put(c)
  local A, p, k = c.A, c.p, c.k
  for _ = 1, tonumber(A[p]) do
    local n, key = tonumber(A[p + 1]), c.K[k]
    if redis.call('HSET', key, unpack(A, p + 2, p + 1 + 2 * n)) > 0 then
      for i = p + 2, p + 2 * n, 2 do
        if not belongs(c, key, A[i]) then
          redis.call('HDEL', key, A[i])
          c.ignored = c.ignored + 1
        end
      end
    end
    p, k = p + 1 + 2 * n, k + 1
  end
  c.p, c.k = p + 1, k
end

-- r, r x (segment, count, ids) (key: live). Gives the runs back: {from, to} in ARGV.
local function take_out(c)
  local A, p, k, runs = c.A, c.p, c.k, {}
  for _ = 1, tonumber(A[p]) do
    local n, key = tonumber(A[p + 2]), c.K[k]
    local from, to = p + 3, p + 2 + n
    if redis.call('HDEL', key, unpack(A, from, to)) < n then
      for i = from, to do
        if not belongs(c, key, A[i]) then
          c.gone[A[i]] = true
          c.ignored = c.ignored + 1
        end
      end
    end
    if redis.call('EXISTS', key) == 0 then redis.call('SREM', c.K[SEGMENTS], A[p + 1]) end
    runs[#runs + 1] = {from, to}
    p, k = p + 2 + n, k + 1
  end
  c.p, c.k = p + 1, k
  return runs
end

-- n, n x (id, value): dead letters take their body with them. The set of their ids.
local function bury(c)
  local K, A, p, dead = c.K, c.A, c.p, {}
  for _ = 1, tonumber(A[p]) do
    local id = A[p + 1]
    if not c.gone[id] then
      dead[id] = true
      redis.call('HSET', K[DEAD], id, A[p + 2])
      redis.call('HSET', K[DEAD_REQ], id, redis.call('HGET', K[REQ], id) or '')
    end
    p = p + 2
  end
  c.p = p + 1
  return dead
end

local function drop_bodies(c, runs, dead)
  local K, A = c.K, c.A
  local has_large = redis.call('EXISTS', K[REF]) == 1
  for _, run in ipairs(runs) do
    local from, to = run[1], run[2]
    if has_large then
      local tokens = redis.call('HMGET', K[REF], unpack(A, from, to))
      for i = 1, to - from + 1 do
        local id = A[from + i - 1]
        if tokens[i] and not c.gone[id] and not dead[id] then drop_body(c, id, tokens[i]) end
      end
    end
    if not next(c.gone) then
      redis.call('HDEL', K[REQ], unpack(A, from, to))
    else
      for i = from, to do
        if not c.gone[A[i]] then redis.call('HDEL', K[REQ], A[i]) end
      end
    end
  end
end

-- take_out's section, bury's, then r, r x (retention, count, count x (id, value)) (key: done).
local function finish(c)
  local runs = take_out(c)
  drop_bodies(c, runs, bury(c))
  local A, p, k = c.A, c.p, c.k
  for _ = 1, tonumber(A[p]) do
    local n = tonumber(A[p + 2])
    if set_pairs(c.K[k], A, p + 3, n, c.gone) > 0 then keep(c.K[k], tonumber(A[p + 1])) end
    p, k = p + 2 + 2 * n, k + 1
  end
  c.p, c.k = p + 1, k
end

-- Dead letters that go for good. r, r x (retention, count, count x (id, value)) (key: done).
local function discard(c)
  local K, A, p, k = c.K, c.A, c.p, c.k
  for _ = 1, tonumber(A[p]) do
    local n, done = tonumber(A[p + 2]), 0
    for i = p + 3, p + 1 + 2 * n, 2 do
      local id = A[i]
      if redis.call('HDEL', K[DEAD], id) == 1 then
        redis.call('HDEL', K[DEAD_REQ], id)
        local token = redis.call('HGET', K[REF], id)
        if token then drop_body(c, id, token) end
        redis.call('HSET', K[k], id, A[i + 1])
        done = done + 1
      end
    end
    if done > 0 then keep(K[k], tonumber(A[p + 1])) end
    c.ignored = c.ignored + n - done
    p, k = p + 2 + 2 * n, k + 1
  end
  c.p, c.k = p + 1, k
end

-- Dead letters that run again. r, r x (segment, count, count x (id, record)) (key: live).
local function revive(c)
  local K, A, p, k = c.K, c.A, c.p, c.k
  for _ = 1, tonumber(A[p]) do
    local n, done = tonumber(A[p + 2]), 0
    for i = p + 3, p + 1 + 2 * n, 2 do
      local id = A[i]
      if redis.call('HDEL', K[DEAD], id) == 1 then
        redis.call('HSET', K[REQ], id, redis.call('HGET', K[DEAD_REQ], id) or '')
        redis.call('HDEL', K[DEAD_REQ], id)
        redis.call('HSET', K[k], id, A[i + 1])
        done = done + 1
      end
    end
    if done > 0 then redis.call('SADD', K[SEGMENTS], A[p + 1]) end
    c.ignored = c.ignored + n - done
    p, k = p + 2 + 2 * n, k + 1
  end
  c.p, c.k = p + 1, k
end

-- Registry: n, n x (field, 's' or 'd', value). Counters: n, n x (name, delta). Event: entry or ''.
local function rest(c)
  local K, A, p = c.K, c.A, c.p
  for _ = 1, tonumber(A[p]) do
    if A[p + 2] == 's' then
      redis.call('HSET', K[REG], A[p + 1], A[p + 3])
    else
      redis.call('HDEL', K[REG], A[p + 1])
    end
    p = p + 3
  end
  p = p + 1
  for _ = 1, tonumber(A[p]) do
    redis.call('HINCRBY', K[COUNT], A[p + 1], A[p + 2])
    p = p + 2
  end
  if #c.refused > 0 then redis.call('HINCRBY', K[COUNT], 'dups', #c.refused) end
  if A[p + 1] ~= '' then
    redis.call('XADD', K[EVENTS], 'MAXLEN', '~', '10000', '*', 'e', A[p + 1])
  end
end

local function commit(K, A)
  local h = redis.call('HMGET', K[1], 'epoch', 'sequence')
  if h[1] ~= A[1] then return {FENCED} end
  local stored, sequence = tonumber(h[2] or 0), tonumber(A[2])
  if sequence ~= stored + 1 then return {sequence == stored and DUP or GAP} end
  local c = {K = K, A = A, k = 10, p = 5, live = A[3], body = A[4], ids = {}, dup = {}, gone = {},
             refused = {}, ignored = 0}
  if not large_is_there(c) then
    return redis.error_reply('ERR a large value of this commit is not in the store')
  end
  create(c)
  publish_large(c)
  finish_new(c)
  put(c)
  finish(c)
  discard(c)
  revive(c)
  rest(c)
  redis.call('HSET', K[1], 'sequence', A[2])
  return {OK, c.ignored, unpack(c.refused)}
end

-- The same function twice: a commit that adds jobs is refused as a whole when memory is full; one that
-- only moves and ends them is not, or a full Redis could never drain.
redis.register_function{function_name = 'mq1_commit', callback = commit, flags = {'allow-oom'}}
redis.register_function('mq1_commit_new', commit)
