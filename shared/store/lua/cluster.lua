-- The table of brokers and shards: who is there, who owns what, what operators wish. It tells everyone where
-- to look and whose turn it is; who really owns a shard is decided by the shard's own owner record alone.
--
-- Fields: shards, version; b:<broker> = "until record"; o:<shard> = "owner epoch since jobs sequence lineage",
-- owner "-" while nobody does, sequence: the last commit that an owner told of, lineage: its takeover's id and the
-- ones before (owner.lua), none of an older broker; p:<shard> = broker that operators want
-- there; d:<broker> = it gives its shards away.

local FORGET_MS = 600000 -- a broker that was last seen so long ago

local function words(text)
  local t = {}
  for w in string.gmatch(text or '', '%S+') do t[#t + 1] = w end
  return t
end

-- KEYS cluster; ARGV broker ('' = only look), ttl in ms (0 = it leaves), record, shards wanted (0 = any),
-- 1 = may create the table, then for each shard that it owns: number, epoch, "since jobs sequence lineage". Answer: time of
-- this server, then the fields of the table and their values.
local function cluster(K, A)
  local now, key, id = clock(), K[1], A[1]
  local shards = redis.call('HGET', key, 'shards')
  if not shards then
    if A[5] ~= '1' then
      return redis.error_reply('ERR there is no table of shards: the store is empty, and this broker may not initialise it')
    end
    shards = A[4] == '0' and '1' or A[4]
    redis.call('HSET', key, 'shards', shards, 'version', '1')
  end
  if id ~= '' then
    local changes, mine = 0, {}
    if A[2] == '0' then
      redis.call('HDEL', key, 'b:' .. id, 'd:' .. id)
    else
      redis.call('HSET', key, 'b:' .. id, string.format('%.0f', now + tonumber(A[2])) .. ' ' .. A[3])
    end
    for i = 6, #A, 3 do
      local field = 'o:' .. A[i]
      local old = words(redis.call('HGET', key, field))
      mine[A[i]] = true
      if not old[2] or tonumber(old[2]) <= tonumber(A[i + 1]) then
        if old[1] ~= id or old[2] ~= A[i + 1] then changes = changes + 1 end
        redis.call('HSET', key, field, id .. ' ' .. A[i + 1] .. ' ' .. A[i + 2])
      end
    end
    for s = 0, tonumber(shards) - 1 do
      local number = string.format('%.0f', s)
      local old = words(redis.call('HGET', key, 'o:' .. number))
      if old[1] == id and not mine[number] then
        redis.call('HSET', key, 'o:' .. number,
                   '- ' .. old[2] .. ' ' .. string.format('%.0f', now) .. ' 0 ' .. (old[5] or '0') .. ' ' .. (old[6] or ''))
        changes = changes + 1
      end
    end
    if changes > 0 then redis.call('HINCRBY', key, 'version', changes) end
  end
  local all = redis.call('HGETALL', key)
  local answer = {string.format('%.0f', now)}
  for i = 1, #all, 2 do
    local is_old = string.sub(all[i], 1, 2) == 'b:' and (tonumber(words(all[i + 1])[1]) or 0) < now - FORGET_MS
    if is_old and id ~= '' then
      redis.call('HDEL', key, all[i], 'd:' .. string.sub(all[i], 3))
    elseif not is_old then
      answer[#answer + 1], answer[#answer + 2] = all[i], all[i + 1]
    end
  end
  return answer
end

-- KEYS cluster; ARGV field (p:<shard> or d:<broker>), value ('' = take it away).
local function cluster_set(K, A)
  local kind = string.sub(A[1], 1, 2)
  if kind ~= 'p:' and kind ~= 'd:' then return redis.error_reply('ERR not a wish: ' .. A[1]) end
  if A[2] == '' then
    redis.call('HDEL', K[1], A[1])
  else
    redis.call('HSET', K[1], A[1], A[2])
  end
  return redis.status_reply('OK')
end

redis.register_function{function_name = 'mq1_cluster', callback = cluster, flags = {'allow-oom'}}
redis.register_function{function_name = 'mq1_cluster_set', callback = cluster_set, flags = {'allow-oom'}}
