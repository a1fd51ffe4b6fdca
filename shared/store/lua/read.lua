-- Reading a job wherever it is, and the library's own revision.

-- KEYS req segments dead done; ARGV id, prefix of live keys. Answer: where, value; or nothing.
local function job(K, A)
  if redis.call('HEXISTS', K[1], A[1]) == 1 then
    for _, segment in ipairs(redis.call('SMEMBERS', K[2])) do
      local record = redis.call('HGET', A[2] .. segment, A[1])
      if record then return {'live', record} end
    end
  end
  local value = redis.call('HGET', K[4], A[1])
  if value then return {'done', value} end
  value = redis.call('HGET', K[3], A[1])
  if value then return {'dead', value} end
  return {}
end

-- KEYS req ref; ARGV ids. Answer: tokens of large bodies, bodies; both as of one moment.
local function bodies(K, A)
  return {redis.call('HMGET', K[2], unpack(A)), redis.call('HMGET', K[1], unpack(A))}
end

-- KEYS key; ARGV value, ttl in ms. A large result when memory is full: jobs must be able to end. Every
-- other large value is a plain SET, because 64 KiB through Lua cost as much as a hundred jobs.
local function put_large(K, A)
  return redis.call('SET', K[1], A[1], 'PX', A[2])
end

local function version()
  return REVISION
end

redis.register_function{function_name = 'mq1_job', callback = job, flags = {'no-writes'}}
redis.register_function{function_name = 'mq1_bodies', callback = bodies, flags = {'no-writes'}}
redis.register_function{function_name = 'mq1_put_large', callback = put_large, flags = {'allow-oom'}}
redis.register_function{function_name = 'mq1_version', callback = version, flags = {'no-writes'}}
