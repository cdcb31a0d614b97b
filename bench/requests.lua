-- For wrk: sends the requests of a file in turn. A line is a Cookie header, a tab and a body; either may be empty. "@@@@@@@" in
-- a body is a number, another in each request. Arguments: the method, the file, the bodies' Content-Type, the first number.
local requests, n, first = {}, 0, 0
-- What is before the number in a request, and behind it.
local before, behind

function init(args)
  local method, path, type = args[1], args[2], args[3]
  first = tonumber(args[4])
  for line in io.lines(path) do
    local cookie, body = line:match("^([^\t]*)\t(.*)$")
    local headers = {}
    if cookie ~= "" then headers["Cookie"] = cookie end
    if body ~= "" then headers["Content-Type"] = type else body = nil end
    requests[#requests + 1] = wrk.format(method, nil, headers, body)
  end
  before, behind = requests[1]:match("^(.*)@@@@@@@(.*)$")
end

function request()
  n = n + 1
  if before then return before .. string.format("%07d", first + n) .. behind end
  return requests[(n - 1) % #requests + 1]
end
