-- Finished jobs of one minute make room before their time.
--
-- KEYS owner done count; ARGV epoch, cursor, prefix of result keys, name of the bucket's counter, mode: '0' =
-- look, '1' = results go, '2' = everything goes. One piece of the bucket a call. Answer: next cursor ('0' =
-- that was all), bytes freed, 1 when the bucket is there; or nothing when the epoch is not the owner's. The
-- counter loses what is freed and goes with the bucket.
local function trim(K, A)
  if redis.call('HGET', K[1], 'epoch') ~= A[1] then return {} end
  local cursor, freed = '0', 0
  if A[5] ~= '0' then
    local got = redis.call('HSCAN', K[2], A[2], 'COUNT', 256)
    cursor = got[1]
    for i = 1, #got[2], 2 do
      local id, v = got[2][i], got[2][i + 1]
      local b1, b2, b3, b4 = string.byte(v, 2, 5)
      local n = b1 + 256 * b2 + 65536 * b3 + 16777216 * b4
      if string.byte(v, 1) == 114 then
        local key = A[3] .. string.sub(v, 6 + n) .. ':' .. id
        freed = freed + redis.call('STRLEN', key)
        redis.call('UNLINK', key)
      else
        freed = freed + #v - 5 - n
      end
      if A[5] == '2' then
        redis.call('HDEL', K[2], id)
        freed = freed + n
      elseif #v > 5 + n then
        redis.call('HSET', K[2], id, 'i' .. string.sub(v, 2, 5 + n))
      end
    end
  end
  if freed > 0 then redis.call('HINCRBY', K[3], A[4], -freed) end
  local is_there = redis.call('EXISTS', K[2])
  if is_there == 0 then redis.call('HDEL', K[3], A[4]) end
  return {cursor, freed, is_there}
end

redis.register_function{function_name = 'mq1_trim', callback = trim, flags = {'allow-oom'}}
