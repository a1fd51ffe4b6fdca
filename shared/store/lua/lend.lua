-- Limits of the whole fleet, lent to shards: the twin of shared/store/lend.c, where it is explained.
--
-- One hash. b:<limit> = "level period at" (the bucket); h:<shard>:<limit> = "epoch number held need out".

local function lend_share(rows, shards, shard, cap)
  local met, left, open, is_new = {}, cap, shards, true
  while is_new and open > 0 do
    local each = math.floor(left / open)
    is_new = false
    for s = 1, shards do
      if not met[s] and rows[s][4] <= each then
        met[s], is_new = true, true
        left, open = left - rows[s][4], open - 1
      end
    end
  end
  if met[shard] then return rows[shard][4] end
  local before = 0
  for s = 1, shard - 1 do if not met[s] then before = before + 1 end end
  return math.floor(left / open) + (before < left % open and 1 or 0)
end

local function lend_permits(rows, shards, shard, cap)
  local row, sum, is_short = rows[shard], 0, false
  for s = 1, shards do
    sum = sum + rows[s][3]
    is_short = is_short or (s ~= shard and rows[s][4] > rows[s][3])
  end
  local room, share = math.max(0, cap - sum), lend_share(rows, shards, shard, cap)
  if share > row[3] then row[3] = row[3] + math.min(share - row[3], room) end
  if is_short or sum > cap or share > row[3] then return share end
  return row[3]
end

local function lend_tokens(rows, shards, shard, bucket, a, now)
  local row, lent = rows[shard], 0
  for s = 1, shards do lent = lent + rows[s][5] end
  local room = math.max(0, a.burst - lent) * a.period
  if bucket[2] ~= a.period then
    bucket[1] = bucket[3] == 0 and room or 0
    bucket[2] = a.period
  elseif now > bucket[3] then
    bucket[1] = bucket[1] + math.min(now - bucket[3], math.floor(room / a.rate) + 1) * a.rate
  end
  bucket[1] = math.min(bucket[1], room)
  bucket[3] = math.max(bucket[3], now)
  local back = math.min(a.back, math.max(0, row[5] - a.have))
  bucket[1] = bucket[1] + back * a.period
  local tokens = math.min(a.want, math.floor(bucket[1] / a.period))
  row[5] = a.have + tokens
  bucket[1] = bucket[1] - tokens * a.period
  local lacks = math.max(0, a.period - bucket[1])
  return tokens, math.floor((lacks + a.rate - 1) / a.rate)
end

local function lend_numbers(text, count)
  local t = {}
  for w in string.gmatch(text or '', '%S+') do t[#t + 1] = tonumber(w) end
  for i = #t + 1, count do t[i] = 0 end
  return t
end

local function lend_text(t)
  local words = {}
  for i = 1, #t do words[i] = string.format('%.0f', t[i]) end
  return table.concat(words, ' ')
end

local LEND_FIELDS = {'shard', 'epoch', 'number', 'cap', 'held', 'need', 'rate', 'period', 'burst', 'have',
                     'back', 'want'}

-- KEYS the hash, then the owner record of each ask's shard; ARGV shards, time (0 = this server's), then for
-- each ask its limit and LEND_FIELDS. Answer: for each ask 1 (0 = refused), held, share, tokens, wait_ms.
local function lend(K, A)
  local shards, now, answer = tonumber(A[1]), tonumber(A[2]), {}
  if now == 0 then now = clock() end
  for i = 2, #K do
    local at = 3 + (i - 2) * (#LEND_FIELDS + 1)
    local name, a = A[at], {}
    for f = 1, #LEND_FIELDS do a[LEND_FIELDS[f]] = tonumber(A[at + f]) end
    local fields = {'b:' .. name}
    for s = 1, shards do fields[s + 1] = string.format('h:%.0f:', s - 1) .. name end
    local values = redis.call('HMGET', K[1], unpack(fields))
    local shard, bucket, rows = a.shard + 1, lend_numbers(values[1], 3), {}
    for s = 1, shards do rows[s] = lend_numbers(values[s + 1], 5) end
    local row = rows[shard]
    local is_owner = tonumber(redis.call('HGET', K[i], 'epoch') or 0) == a.epoch
    local is_old = a.epoch < row[1] or (a.epoch == row[1] and a.number <= row[2])
    local held, share, tokens, wait = 0, 0, 0, 0
    if is_owner and not is_old then
      if a.rate == 0 or a.epoch > row[1] then row[5] = 0 end
      row[1], row[2] = a.epoch, a.number
      row[3], row[4] = a.cap > 0 and a.held or 0, a.cap > 0 and a.need or 0
      if a.cap > 0 then
        share = lend_permits(rows, shards, shard, a.cap)
        held = row[3]
      end
      if a.rate > 0 then
        tokens, wait = lend_tokens(rows, shards, shard, bucket, a, now)
        redis.call('HSET', K[1], fields[1], lend_text(bucket))
      end
      redis.call('HSET', K[1], fields[shard + 1], lend_text(row))
    end
    answer[#answer + 1] = is_owner and not is_old and 1 or 0
    answer[#answer + 1], answer[#answer + 2] = held, share
    answer[#answer + 1], answer[#answer + 2] = tokens, wait
  end
  return answer
end

redis.register_function{function_name = 'mq1_lend', callback = lend, flags = {'allow-oom'}}
