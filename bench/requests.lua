-- For wrk: sends the requests of a file in turn. Arguments: the method, the file, and the bodies' Content-Type. A line of the
-- file is a Cookie header, a tab and a body; either may be empty. "@@@@@@@" in a body is a number, another in each request.
local requests, n, numbered = {}, 0, false

function init(args)
  local method, path, type = args[1], args[2], args[3]
  for line in io.lines(path) do
    local cookie, body = line:match("^([^\t]*)\t(.*)$")
    local headers = {}
    if cookie ~= "" then headers["Cookie"] = cookie end
    if body ~= "" then headers["Content-Type"] = type else body = nil end
    requests[#requests + 1] = wrk.format(method, nil, headers, body)
  end
  numbered = requests[1]:find("@@@@@@@", 1, true) ~= nil
end

function request()
  n = n + 1
  local text = requests[(n - 1) % #requests + 1]
  if numbered then text = text:gsub("@@@@@@@", string.format("%07d", n)) end
  return text
end
