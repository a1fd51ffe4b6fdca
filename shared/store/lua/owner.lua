-- Who owns the shard. One clock: Redis's own.

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local LINEAGE_BYTES = 64 * 17 - 1 -- ids of 16 digits with dots between them

-- Answer of both functions: ours, epoch, sequence, until, now, owner, endpoint, lineage. Callers of a library
-- before the lineage expect seven values, and do not ask for it.
local function owner_state(key, is_ours, now, wants_lineage)
  local h = redis.call('HMGET', key, 'epoch', 'sequence', 'until', 'owner', 'endpoint', 'lineage')
  local state = {is_ours and 1 or 0, tonumber(h[1] or 0), tonumber(h[2] or 0), tonumber(h[3] or 0), now,
                 h[4] or '', h[5] or ''}
  if wants_lineage then
    state[8] = h[6] or ''
  end
  return state
end

-- KEYS owner; ARGV owner, endpoint, ttl in ms, 1 = takeover, fresh id, id that must be in the lineage ('' = any).
-- Data without that id are of another life of the store: nothing of them is touched. A renewal keeps the epoch and works even
-- after expiry, as long as nobody else took over; a takeover raises it, so that whatever its former
-- holder has under way is refused.
local function acquire(K, A)
  local now = clock()
  local h = redis.call('HMGET', K[1], 'owner', 'until', 'lineage')
  local lineage, wants_lineage = h[3] or '', A[5] ~= nil
  if wants_lineage and A[6] ~= '' and not string.find(lineage, A[6], 1, true) then
    return owner_state(K[1], false, now, true)
  end
  local is_mine = h[1] == A[1]
  local is_held = h[1] and h[1] ~= '' and tonumber(h[2]) > now
  local is_takeover = A[4] == '1'
  if not is_mine and (is_held or not is_takeover) then
    return owner_state(K[1], false, now, wants_lineage)
  end
  if is_takeover then
    redis.call('HINCRBY', K[1], 'epoch', 1)
    if wants_lineage then
      lineage = lineage == '' and A[5] or A[5] .. '.' .. lineage
      redis.call('HSET', K[1], 'lineage', string.sub(lineage, 1, LINEAGE_BYTES))
    end
  end
  redis.call('HSET', K[1], 'owner', A[1], 'endpoint', A[2],
             'until', string.format('%.0f', now + tonumber(A[3])))
  return owner_state(K[1], true, now, wants_lineage)
end

-- KEYS owner; ARGV epoch. First value of the answer: 1 = given up, 0 = it was not the owner's epoch.
local function release(K, A)
  local h = redis.call('HMGET', K[1], 'owner', 'epoch')
  if h[2] ~= A[1] or not h[1] or h[1] == '' then
    return owner_state(K[1], false, clock())
  end
  redis.call('HSET', K[1], 'owner', '', 'endpoint', '', 'until', '0')
  return owner_state(K[1], true, clock())
end

redis.register_function{function_name = 'mq1_acquire', callback = acquire, flags = {'allow-oom'}}
redis.register_function{function_name = 'mq1_release', callback = release, flags = {'allow-oom'}}
